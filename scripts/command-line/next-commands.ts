import { existsSync, readdirSync } from "node:fs";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { layoutOf } from "./deployment.ts";
import { signetFor, type Invocation } from "./program.ts";
import { allKeys, withKms } from "./session.ts";

/** Five commands that work as they stand, one after the other: with names that nothing has here yet. */
export async function nextCommands(invocation: Invocation, mode: DeploymentMode, agent: string | undefined): Promise<readonly string[]> {
  const { agents } = layoutOf(invocation.data);
  const enrolled = existsSync(agents) ? readdirSync(agents) : [];
  // Nobody sees the keys of others, so that an agent that begins gives its key a name of its own.
  const keys = agent === undefined ? [] : (await withKms(invocation, { as: agent }, allKeys).catch(() => [])).map(({ name }) => name);
  const person = ["bob", "carol", "dave", "erin"].find((each) => !enrolled.includes(each)) ?? firstFree("bob", (each) => enrolled.includes(each));
  // These two name files in the folder where the commands are typed, too: most likely this one.
  const service = firstFree("api", (each) => existsSync(each));
  const key = firstFree("orders", (each) => keys.includes(each) || existsSync(`${each}.key`));
  const signet = signetFor(invocation.data);
  const issue = `${signet} ca issue ${service} --dns localhost ${mode === "development" ? `--dns ${service}.corp ` : ""}--ip 127.0.0.1 --out ./${service}`;
  const enroll = `${signet} ca token ${person} | ${signet} agent enroll ${person} --token-file -`;
  const useKey = (name: string, as: string): readonly string[] => [`${signet} kms key create ${name}${as}`, `${signet} kms key get ${name}${as} --out ${name}.key`];
  const revoke = `${signet} ca revoke ${person} --reason keyCompromise`;
  return agent === undefined ? [issue, enroll, ...useKey(`${person}-orders`, ` --as ${person}`), revoke] : [issue, ...useKey(key, ""), enroll, revoke];
}

/** `name`, or `name-2` and so on where it is taken. */
function firstFree(name: string, isTaken: (name: string) => boolean): string {
  let candidate = name;
  for (let number = 2; isTaken(candidate); number++) candidate = `${name}-${number}`;
  return candidate;
}
