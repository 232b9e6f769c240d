// Answers of llama.cpp, by node-llama-cpp's built binary: node llama_cpp.mjs PACKAGES GGUF THREADS
//
// Reads requests {"ids": [...], "tokens": n} from standard input, one a line, and writes for each one the seconds from
// the request to each of its tokens, sampled greedily from an empty context. Compiles and downloads nothing.
import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [packages, modelPath, threads] = process.argv.slice(2);
const entry = createRequire(`${packages}/package.json`).resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(entry));

const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: Number(threads)});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 2048, batchSize: 512, threads: Number(threads)});
const sequence = context.getSequence();
console.log(JSON.stringify({llama_cpp: llama.llamaCppRelease.release, build: llama.buildType, system: llama.systemInfo}));

for await (const line of createInterface({input: process.stdin})) {
    const {ids, tokens} = JSON.parse(line);
    await sequence.clearHistory();
    const start = performance.now(), seconds = [], answer = [];
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        seconds.push((performance.now() - start) / 1000);
        answer.push(token);
        if (seconds.length === tokens) break;
    }
    console.log(JSON.stringify({seconds, answer}));
}
await llama.dispose();
