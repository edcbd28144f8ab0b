// npm run fuzz [-- INPUTS [SEED]]: damaged certificates, CRLs, requests, messages and PEM texts; a million by default.
// Every one must be refused with a typed error or read whole, within 50 ms of CPU time, in bounded memory. Exit 0 if so.
import { SignetError } from "#pki/errors.ts";
import { damage, fuzzTargets } from "#test/support/fuzz.ts";
import { randomFrom } from "#test/support/random-paths.ts";

const [inputs = 1_000_000, seed = Date.now() & 0x7fffffff] = process.argv.slice(2).map(Number);
const limitMicroseconds = 50_000;
const heapLimit = 512 * 2 ** 20;

const random = randomFrom(seed);
const codes = new Map<string, number>();
const failures: string[] = [];
let slowest = 0;
let largestHeap = 0;
for (let round = 0; round < inputs && failures.length < 10; round++) {
  const { seed: original, read, refusesWithDerCode = false } = fuzzTargets[round % fuzzTargets.length] as (typeof fuzzTargets)[number];
  const input = damage(original, random);
  const before = process.cpuUsage();
  let outcome = "read";
  try {
    read(input);
  } catch (error) {
    outcome = error instanceof SignetError ? error.code : "untyped";
    if (outcome === "untyped" || outcome === "internal" || (outcome === "der-malformed" && !refusesWithDerCode)) failures.push(`${String(error)}: ${input.toString("hex")}`);
  }
  const { user, system } = process.cpuUsage(before);
  // Collections of garbage and compilation fall on whoever comes next: what is slow once must be slow again.
  if (user + system > limitMicroseconds && isSlow(() => read(input))) failures.push(`${user + system} us: ${input.toString("hex")}`);
  slowest = Math.max(slowest, user + system);
  codes.set(outcome, (codes.get(outcome) ?? 0) + 1);
  if (round % 1000 === 0) largestHeap = Math.max(largestHeap, process.memoryUsage().heapUsed);
}
if (largestHeap > heapLimit) failures.push(`the heap grew to ${largestHeap} octets`);

function isSlow(run: () => void): boolean {
  const before = process.cpuUsage();
  try {
    run();
  } catch {
    // Which outcome it is was looked at before.
  }
  const { user, system } = process.cpuUsage(before);
  return user + system > limitMicroseconds;
}

for (const [code, count] of [...codes].sort(([, one], [, other]) => other - one)) process.stdout.write(`${String(count).padStart(9)}  ${code}\n`);
process.stdout.write(`seed ${seed}; slowest ${(slowest / 1000).toFixed(1)} ms; heap ${(largestHeap / 2 ** 20).toFixed(0)} MiB at most; ${failures.length} failed\n`);
for (const failure of failures) process.stderr.write(`${failure}\n`);
process.exitCode = failures.length === 0 ? 0 : 1;
