// undici through a proxy that wants credentials. Arguments: proxy URL, path of a CA, user:password
// or "-", how often, URL. Prints JSON: the status of each answer, of a refused tunnel in "refused".
'use strict';
const fs = require('fs');
const { ProxyAgent, fetch } = require('undici');

const [uri, ca, pair, times, url] = process.argv.slice(2);
const token = pair === '-' ? undefined : `Basic ${Buffer.from(pair).toString('base64')}`;
const tls = { ca: fs.readFileSync(ca) };

async function main() {
  const dispatcher = new ProxyAgent({ uri, token, requestTls: tls });
  const result = { statuses: [], sizes: [], refused: '' };
  try {
    for (let i = 0; i < Number(times); i++) {
      const response = await fetch(url, { dispatcher });
      result.statuses.push(response.status);
      result.sizes.push((await response.arrayBuffer()).byteLength);
    }
  } catch (error) {
    for (let e = error; e; e = e.cause) result.refused += `${e}\n`;
  }
  await dispatcher.close();
  console.log(JSON.stringify(result));
}

main();
