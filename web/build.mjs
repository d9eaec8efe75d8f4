// Builds the pages into dist/: everything that they load is there, under names that hold the content's hash.
import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const out = "dist/assets";
for (const name of await readdir("dist")) if (name !== "README") await rm("dist/" + name, { recursive: true });
await mkdir(out, { recursive: true });

const result = await build({
  entryPoints: ["src/main.ts", "src/sql.ts", "src/style.css"], bundle: true, minify: true, format: "esm", target: "es2022",
  outdir: out, entryNames: "[name]-[hash]", metafile: true, legalComments: "linked",
});
const built = (entry) => "/" + Object.entries(result.metafile.outputs).find(([, o]) => o.entryPoint === entry)[0].replace(/^dist\//, "");

const rapidoc = await readFile("node_modules/rapidoc/dist/rapidoc-min.js");
const docs = `rapidoc-${createHash("sha256").update(rapidoc).digest("hex").slice(0, 8)}.js`;
await copyFile("node_modules/rapidoc/dist/rapidoc-min.js", `${out}/${docs}`);

const fill = async (page, names) => {
  let html = await readFile("src/" + page, "utf8");
  for (const [k, v] of Object.entries(names)) html = html.replaceAll(k, v);
  await writeFile("dist/" + page, html);
};
await fill("index.html", { MAIN_JS: built("src/main.ts"), STYLE_CSS: built("src/style.css") });
await fill("sql.html", { SQL_JS: built("src/sql.ts"), STYLE_CSS: built("src/style.css") });
await fill("docs.html", { RAPIDOC_JS: "/assets/" + docs });
for (const name of ["favicon.svg", "manifest.webmanifest"]) await copyFile("src/" + name, "dist/" + name);
