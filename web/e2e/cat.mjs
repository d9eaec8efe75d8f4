// The other side of media/cat/interop_test.go: mints and validates tokens with @eyevinn/cat, as told on standard input.
import { CAT } from "@eyevinn/cat";

let input = "";
for await (const chunk of process.stdin) input += chunk;
const { kid, secret, issuer, mint, check } = JSON.parse(input);
const cat = new CAT({ keys: { [kid]: Buffer.from(secret, "base64") }, expectCwtTag: true });

const minted = [];
for (const claims of mint) minted.push(await cat.generateFromJson(claims, { type: "mac", alg: "HS256", kid }));

const checked = [];
for (const { token, url, ip } of check) {
  try {
    const r = await cat.validate(token, "mac", { issuer, url: new URL(url), ip });
    checked.push({ error: r.error ? r.error.constructor.name : "", claims: r.cat?.claims, renew: r.cat?.shouldRenew });
  } catch (e) {
    checked.push({ error: e.constructor.name });
  }
}
process.stdout.write(JSON.stringify({ minted, checked }));
