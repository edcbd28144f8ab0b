/** Victims from whom the news of a revocation is kept away: Signet's key server, with a clock that this arm can move. */
import type { Clock } from "#pki/clock.ts";
import type { VictimStage } from "./attack.ts";
import { guard, guardedKeyServer } from "./guarded.ts";

const sixteenMinutes = 16 * 60_000;

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
  clock.moveAhead(sixteenMinutes);
  stage.tell("time-passes");
  await stage.end;
}
