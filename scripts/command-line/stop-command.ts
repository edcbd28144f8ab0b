import { setTimeout as wait } from "node:timers/promises";
import { SignetError } from "#pki/errors.ts";
import { DataDirectory, type DataDirectoryHolder } from "#store/data-directory.ts";
import { layoutOf } from "./deployment.ts";
import { removeAbandoned } from "./ephemeral.ts";
import { errnoOf, type Definition, type Invocation, type Outcome } from "./program.ts";
import { requireDeployment, type ServiceName } from "./service-options.ts";

/** As long as a service may take that answers who waits for it, and then some. */
const stopMilliseconds = 20_000;
const starterMilliseconds = 2000;
const pollMilliseconds = 25;

/** `signet stop`: ends the services of a data directory, whoever started them. */
export function defineStopCommand(definition: Definition): void {
  const stop = definition.command(definition.program, "stop", "stop the services of the data directory, the KMS before the CA", "npx signet stop\nnpx signet stop --data /var/lib/signet");
  definition.handle(stop, async (invocation: Invocation): Promise<Outcome> => {
    const layout = layoutOf(invocation.data);
    // Both are looked for first: when the KMS has ended, `npm start` stops the status page, whose certificate is revoked then, and the CA itself.
    const found: { readonly service: ServiceName; readonly holder: DataDirectoryHolder }[] = [];
    for (const service of ["kms", "ca"] as const) {
      const holder = await settled(layout[service]);
      if (holder !== undefined) found.push({ service, holder });
    }
    if (found.length === 0) requireDeployment(invocation.data);
    const stopped: { readonly service: ServiceName; readonly pid: number }[] = [];
    for (const { service, holder } of found) stopped.push({ service, pid: await invocation.progress(`Stopping the ${service}`, () => stopHolder(service, layout[service], holder, stopped.length === 0 ? 0 : starterMilliseconds)) });
    const removed = removeAbandoned(invocation.data);
    const text = stopped.length === 0 ? `Nothing runs in ${layout.root}.` : stopped.map(({ service, pid }) => `The ${service} has stopped (process ${pid}).`).join("\n");
    return { json: { data: layout.root, stopped, ...(removed ? { removed } : {}) }, text: removed ? `${text}\n${layout.root} was in memory, and is removed.` : text };
  });
}

/**
 * Asks the process that holds a directory to end, and waits until it is gone. Nothing is signalled on the word of a file alone: the operating system says
 * that the directory is held, and that this process has its lock open.
 * @param patience milliseconds in which whoever started it may stop it first
 * @returns its process id
 * @throws SignetError data-directory-locked, timed-out
 */
async function stopHolder(service: ServiceName, directory: string, holder: DataDirectoryHolder, patience: number): Promise<number> {
  const { pid } = holder;
  const isHeld = (): boolean => DataDirectory.holder(directory)?.pid === pid;
  const patient = performance.now() + patience;
  while (isHeld() && performance.now() < patient) await wait(pollMilliseconds);
  const isOpen = isHeld();
  if (pid === undefined || (isOpen && holder.isProved?.() !== true)) {
    throw new SignetError("data-directory-locked", `${directory} is in use, but by which process cannot be proved: nothing was stopped.`, {
      details: { next: `Stop it as the user who owns ${directory}, or with \`systemctl stop signet-${service}\` where systemd runs it. It may run in another container or on another host, too; \`fuser ${directory}/lock\` names a process on this one.` },
    });
  }
  try {
    if (isOpen) process.kill(pid, "SIGTERM");
  } catch (error) {
    if (errnoOf(error) === "EPERM") throw new SignetError("data-directory-locked", `The ${service} is process ${pid}, which belongs to another user.`, { details: { next: `Stop it as that user, or with \`systemctl stop signet-${service}\` where systemd runs it.` } });
    if (errnoOf(error) !== "ESRCH") throw error;
  }
  const deadline = performance.now() + stopMilliseconds;
  while (isRunning(holder) || isHeld()) {
    if (performance.now() > deadline) throw new SignetError("timed-out", `The ${service}, process ${pid}, has been asked to stop and has not in ${stopMilliseconds / 1000} s.`, { details: { next: `Look at its log, or end it with \`kill -9 ${pid}\`: nothing acknowledged is lost.` } });
    await wait(pollMilliseconds);
  }
  return pid;
}

/** The holder of a directory, when it has written its note: a moment after it has taken the lock. */
async function settled(directory: string): Promise<DataDirectoryHolder | undefined> {
  let holder = DataDirectory.holder(directory);
  for (let attempt = 0; attempt < 20 && holder !== undefined && holder.isProved?.() !== true; attempt++) {
    await wait(pollMilliseconds);
    holder = DataDirectory.holder(directory);
  }
  return holder;
}

function isRunning({ pid, isThatProcess }: DataDirectoryHolder): boolean {
  try {
    return pid !== undefined && isThatProcess?.() === true && process.kill(pid, 0);
  } catch (error) {
    // Somebody else's process is one all the same.
    return errnoOf(error) === "EPERM";
  }
}
