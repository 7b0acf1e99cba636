// Commands and code that send the same request as the page.

import { storedKey } from "/page/client.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(body) {
  const header = storedKey() ? ` \\\n  -H "Authorization: Bearer $RFT_API_KEY"` : "";
  return `curl -N ${location.origin}/solve${header} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify({ ...body, stream: true }))}`;
}

export function sdk(body) {
  const apiKey = storedKey() ? 'os.environ["RFT_API_KEY"]' : '"none"';
  return `${storedKey() ? "import os\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=${apiKey})
answer = client.chat.completions.create(
    model=${JSON.stringify(body.model)},
    messages=[{"role": "user", "content": ${JSON.stringify(body.question)}}],
    n=${body.k},
    temperature=${body.temperature},
)
for choice in answer.choices:
    print(choice.message.content)`;
}
