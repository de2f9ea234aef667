// Whether transformers.js reads a bundle and answers as nimbert does.
//
//     node interop.mjs FOLDER BUNDLE ANSWERS.jsonl TEXTS.txt
//
// The bundle is the folder FOLDER/BUNDLE; its default graph is int8, its config.json says that there is a second file.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, bundle, answersFile, textsFile] = process.argv.slice(2);
const require = createRequire(path.join(process.cwd(), ".setup/interop/"));
const { env, pipeline } = await import(pathToFileURL(require.resolve("@huggingface/transformers")));
env.allowRemoteModels = false;
env.localModelPath = path.resolve(folder);
const options = { dtype: "fp32", device: "cpu", subfolder: "", model_file_name: "model" };
const classify = await pipeline("text-classification", bundle, options);
const lines = (file) => fs.readFileSync(file, "utf8").split("\n").filter((line) => line);
const texts = lines(textsFile);
const answers = lines(answersFile).map((line) => JSON.parse(line));
const TOLERANCE = 1e-3;
let largest = 0;
for (const [index, text] of texts.entries()) {
  const result = await classify(text, { top_k: null });
  const answer = answers[index];
  if (result[0].label !== answer.label) throw new Error(`${text}: ${result[0].label}, nimbert says ${answer.label}`);
  for (const { label, score } of result) largest = Math.max(largest, Math.abs(score - answer.scores[label]));
}
if (!(largest <= TOLERANCE)) throw new Error(`scores differ by ${largest}`);
console.log(`transformers.js: ${texts.length} texts, scores within ${largest.toExponential(1)}`);
