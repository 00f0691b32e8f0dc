// Compiles the contracts of this folder into indexer/demo/artifacts/*.json, which are committed:
// nothing but this script needs a compiler. Run by `make contracts`, with solc 0.8.37 on NODE_PATH.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const target = path.join(__dirname, "..", "..", "indexer", "demo", "artifacts");
const files = fs.readdirSync(__dirname).filter((name) => name.endsWith(".sol"));
const input = {
  language: "Solidity",
  sources: Object.fromEntries(files.map((name) => [name, { content: fs.readFileSync(path.join(__dirname, name), "utf8") }])),
  settings: {
    viaIR: true, // NewFeedback has more fields than the old code generator has stack
    optimizer: { enabled: true, runs: 200 },
    evmVersion: "cancun",
    metadata: { bytecodeHash: "none", appendCBOR: false }, // the same bytes from every machine
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const resolve = (name) => ({ contents: fs.readFileSync(path.join(__dirname, path.basename(name)), "utf8") });
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: resolve }));
for (const { severity, formattedMessage } of output.errors ?? []) {
  console.error(formattedMessage);
  if (severity === "error") process.exitCode = 1;
}
if (!process.exitCode) {
  fs.mkdirSync(target, { recursive: true });
  for (const name of ["Identity", "Reputation", "Validation", "Registrant", "Emitter"]) {
    const { abi, evm } = output.contracts[`${name}.sol`][name];
    const artifact = {
      contract: name,
      compiler: solc.version().split("+")[0],
      bytecode: `0x${evm.bytecode.object}`,
      deployed_bytecode: `0x${evm.deployedBytecode.object}`,
      abi,
    };
    fs.writeFileSync(path.join(target, `${name.toLowerCase()}.json`), JSON.stringify(artifact, null, 1) + "\n");
  }
}
