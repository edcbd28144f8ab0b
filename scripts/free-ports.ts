import { randomInt } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";

/** Below the ports that systems give to whoever names none (Linux from 32768 on, others from 49152). */
const [first, count] = [20_000, 10_000];

/** Each process begins somewhere, so that two seldom ask for the same at one time. */
let next = randomInt(count);

/**
 * Ports of 127.0.0.1 that nobody has, for services that are told theirs, or that have them again after a restart. One that the system gave would be anybody's
 * from the moment at which it is let go: Linux draws from 7,000, and tests that run side by side draw often.
 */
export async function freePorts(wanted: number): Promise<readonly number[]> {
  const ports: number[] = [];
  while (ports.length < wanted) {
    const port = first + next;
    next = (next + 1) % count;
    if (await isFree(port)) ports.push(port);
  }
  return ports;
}

/** The same as options: `--NAME-port` for each. */
export async function portOptions(...names: readonly string[]): Promise<readonly string[]> {
  const ports = await freePorts(names.length);
  return names.flatMap((name, index) => [`--${name}-port`, String(ports[index])]);
}

/** Whether nobody has a port of 127.0.0.1. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, "127.0.0.1");
  try {
    await once(server, "listening");
  } catch {
    return false;
  }
  server.close();
  await once(server, "close");
  return true;
}
