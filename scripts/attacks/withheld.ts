/** Victims from whom the news of a revocation is kept away: Signet's key server, with a clock that this arm can move. */
import type { Clock } from "#pki/clock.ts";
import { CrlRefresher } from "#pki/crl-refresher.ts";
import { EnrolmentClient } from "#pki/enrolment-client.ts";
import { silentLog } from "#pki/log.ts";
import type { VictimStage } from "./attack.ts";
import { guard, guardedKeyServer } from "./guarded.ts";
import { errorCodeOf } from "./observe.ts";

const minutes = 60_000;

/** A clock that runs like the machine's, and can be moved ahead instead of waiting. */
function movableClock(): Clock & { moveAhead(milliseconds: number): void } {
  let ahead = 0;
  return {
    now: () => new Date(Date.now() + ahead),
    monotonicMilliseconds: () => performance.now() + ahead,
    moveAhead: (milliseconds) => {
      ahead += milliseconds;
    },
  };
}

/** A connection is admitted while all is well; then sixteen minutes pass without a refresh. */
export async function heldConnection(stage: VictimStage): Promise<void> {
  const clock = movableClock();
  await guardedKeyServer(stage, guard(stage.world.laboratory, [stage.world.laboratory.emptyCrl], clock));
  await stage.hear("connected");
  clock.moveAhead(16 * minutes);
  stage.tell("time-passes");
  await stage.end;
}

/** Every refresh ends at Mallory, who answers 304 to whatever she is asked; eighteen minutes pass. */
export async function newsWithheld(stage: VictimStage): Promise<void> {
  const clock = movableClock();
  const held = guard(stage.world.laboratory, [stage.world.laboratory.emptyCrl], clock);
  const [root] = held.trustAnchors;
  if (root === undefined) throw new Error("no root");
  const caUrl = new URL(`https://localhost:${Number(await stage.hear("distribution-point"))}`);
  const source = new EnrolmentClient({ caUrl, root, revocation: held.revocation, clock });
  const refresher = new CrlRefresher({ store: held.revocation, source, clock, log: silentLog });
  const codes = new Set<string>();
  for (let round = 0; round < 3; round += 1) {
    clock.moveAhead(6 * minutes);
    codes.add(await refresher.refreshOnce().then(() => "a refresh that counted", errorCodeOf));
  }
  source.close();
  stage.note(`Three refreshes in eighteen minutes ended with ${[...codes].join(", ")}.`);
  await guardedKeyServer(stage, held);
  await stage.end;
}

/** The CRL that is in force runs out, and Mallory serves the same one again. */
export async function ranOut(stage: VictimStage, served: string | undefined): Promise<void> {
  const clock = movableClock();
  const held = guard(stage.world.laboratory, [stage.world.laboratory.emptyCrl], clock);
  clock.moveAhead(6 * 60 * minutes);
  try {
    held.accept(served ?? "");
    stage.note("The CRL that had run out was accepted once more.");
  } catch (error) {
    stage.note(`The CRL that Mallory served was not accepted: ${errorCodeOf(error)}.`);
  }
  await guardedKeyServer(stage, held);
  await stage.end;
}
