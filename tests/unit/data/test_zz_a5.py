from pathlib import Path
from tests.unit.data.test_hub_runs import *
from tests.unit.data.test_hub_runs import on, RUN, tiny_files
def test_damage(tmp_path):
    folder=tmp_path
    with hub_server({"meta/llama": tiny_files()}) as endpoint:
        said = on(folder / "a", RUN, str(folder / "runs"), endpoint)
    [config]=folder.glob("runs/*/sources/meta/llama/*/config.json")
    data=bytearray(config.read_bytes()); data[-3]^=1
    config.write_bytes(bytes(data))
    with closed_port() as endpoint:
        try: again=on(folder / "b", RUN, str(folder / "runs"), endpoint)
        except BaseException as e: again=repr(e)[-800:]
    print("FIRST", said, "AGAIN", again)
