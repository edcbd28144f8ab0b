import { constants } from "node:crypto";
import { readFileSync, watch } from "node:fs";
import { createServer } from "node:https";

const read = (name) => readFileSync(`api/${name}.pem`, "utf8");
const options = () => ({
  key: read("key"),
  cert: read("fullchain"),
  ca: read("root"),
  crl: read("crl").split(/(?<=-----END X509 CRL-----\n)/), // one by one: of several in one text, Node reads the first alone
  requestCert: true,
  rejectUnauthorized: true,
  minVersion: "TLSv1.3",
  secureOptions: constants.SSL_OP_NO_TICKET, // a resumed session would outlive the revocation
});
const server = createServer(options(), (request, response) => response.end(`Hello, ${request.socket.getPeerX509Certificate().subjectAltName}.\n`));
const sockets = new Set(); // closeAllConnections() would leave out those in their handshake, which end it by the CRL of before
server.on("connection", (socket) => {
  sockets.add(socket);
  socket.once("close", () => sockets.delete(socket));
});
watch("api", (_, name) => {
  if (name !== "crl.pem") return;
  server.setSecureContext(options());
  for (const socket of sockets) socket.destroy(); // whoever may come back does
});
server.listen(8444, "127.0.0.1", () => console.log("listening on https://localhost:8444"));
