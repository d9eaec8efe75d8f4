// run.mjs DIR URL runs the suite installed in DIR against a cache at URL and prints [{id, kind, passed, why}].
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [dir, url] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(join(dir, path)));
const tests = [...(await load("tests/index.mjs")).default, (await load("tests/surrogate-control.mjs")).default];
const { runTests, getResults } = await load("client/runner.mjs");
const fetch = createRequire(join(dir, "cli.mjs"))("node-fetch");
await runTests(tests, fetch, false, url);
const results = getResults();
const out = tests.flatMap((s) => s.tests).filter((t) => !t.browser_only)
  .map((t) => ({ id: t.id, kind: t.kind ?? "required", passed: results[t.id] === true, why: results[t.id] === true ? "" : String(results[t.id]) }));
process.stdout.write(JSON.stringify(out));
