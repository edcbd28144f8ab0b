// The baseline: a bare node:https handler behind mutual TLS, as a process of its own.
//   node bare-server.ts ROOT.pem KEY_AND_CHAIN.pem ANSWER_BYTES
// Prints {"ready":true,"port","pid"} when it listens on a free loopback port; SIGTERM ends it.
import { readFileSync } from "node:fs";
import https from "node:https";
import type { AddressInfo } from "node:net";

const [rootFile = "", credentialFile = "", answerBytes = "32"] = process.argv.slice(2);
const answer = Buffer.alloc(Number(answerBytes), 0x5a);
const server = https.createServer(
  {
    minVersion: "TLSv1.3",
    ca: readFileSync(rootFile),
    cert: readFileSync(credentialFile),
    key: readFileSync(credentialFile),
    requestCert: true,
    rejectUnauthorized: true,
  },
  (request, response) => {
    // The body is read whole, as any handler that answers to it would.
    request.resume();
    request.on("end", () => {
      response.writeHead(200, { "content-type": "application/octet-stream", "content-length": answer.length });
      response.end(answer);
    });
  },
);
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ ready: true, port, pid: process.pid })}\n`);
});
process.on("SIGTERM", () => process.exit(0));
