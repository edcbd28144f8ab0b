import { readFileSync } from "node:fs";
import { get } from "node:https";

const [who, url] = process.argv.slice(2);
const read = (name) => readFileSync(`${who}/${name}.pem`, "utf8");
const options = {
  key: read("key"),
  cert: read("fullchain"),
  ca: read("root"),
  crl: read("crl").split(/(?<=-----END X509 CRL-----\n)/), // one by one: of several in one text, Node reads the first alone
  minVersion: "TLSv1.3",
};
get(url, options, (response) => {
  if (response.statusCode !== 200) process.exitCode = 1;
  response.pipe(process.stdout);
}).on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
