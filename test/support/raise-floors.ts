// A process of a party that raises the floor of one scope by and by: FILE SCOPE COUNT. Says when it is there, begins when its stdin ends, and says after each raise
// whether the file holds it.
import { once } from "node:events";
import { fileFloors } from "#pki/crl-floors.ts";

const [file = "", scope = "", count = "0"] = process.argv.slice(2);
const floors = fileFloors(file);
process.stdout.write("there\n");
await once(process.stdin.resume(), "end");
for (let number = 1; number <= Number(count); number++) {
  floors.raise(scope, { crlNumber: BigInt(number), thisUpdate: new Date(1_800_000_000_000 + number * 1000), digest: number.toString(16).padStart(64, "0") });
  process.stdout.write((fileFloors(file).get(scope)?.crlNumber ?? 0n) >= BigInt(number) ? "kept\n" : "lost\n");
}
