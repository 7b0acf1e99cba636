"""A GGUF file -> a Hugging Face folder of bfloat16 safetensors and a tokenizer, through transformers.

`save_pretrained` refuses a model that was loaded from GGUF, so its weights go into a fresh one of the same
config. transformers ignores the pre-tokenizer that a GGUF names. For `smollm`, which makes every digit its own
token, it is set here; without it, white space before digits is tokenized differently.

SmolLM2-135M-Instruct has pad token = EOS token (id 2): mask labels by length, never by token.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


def unpack(gguf: Path, folder: Path) -> None:
    """Write the model of `gguf` into `folder`. Raises ValueError for a file that cannot be read, and OSError."""
    import torch
    from safetensors import SafetensorError

    try:
        model, tokenizer = _load(gguf)
    except Exception as error:  # the readers have no common exception
        raise ValueError(f"{gguf} cannot be read as GGUF ({type(error).__name__}: {error})") from error
    try:
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # raised, for example, when the disk is full
        raise OSError(errno.EIO, str(error)) from error


def _load(gguf: Path) -> tuple[Any, Any]:
    """A float32 model without GGUF settings in its config, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    _restore_pre_tokenizer(tokenizer, gguf)
    unpacked = GgufConfig(dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, quantization_config=unpacked)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
        model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    return model, tokenizer


def _restore_pre_tokenizer(tokenizer: Any, gguf: Path) -> None:
    """For GGUF files that name `smollm`, set its pre-tokenizer: every digit on its own, then byte level."""
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    named = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if named and named.contents() == "smollm":
        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)
