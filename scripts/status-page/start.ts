import { mkdirSync, openSync } from "node:fs";
import path from "node:path";
import { systemClock } from "#pki/clock.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { createLog } from "#pki/service-log.ts";
import { layoutOf } from "../command-line/deployment.ts";
import { fileError } from "../command-line/program.ts";
import type { Service } from "../command-line/services.ts";
import { serveStatusPage } from "./server.ts";
import { StatusSource } from "./source.ts";

/**
 * Serves the status page of a deployment from this process, as one of the services that it looks after. It speaks as the deployment's first operator, and keeps a log of its own.
 * @throws SignetError port-taken, file-unusable, and what the CA or the operator's certificate brings
 */
export async function startStatusPage(i: { readonly data: string; readonly mode: DeploymentMode; readonly port: number; readonly mutualUrl: string; readonly kmsUrl: string }): Promise<Service<{ readonly url: string }>> {
  const layout = layoutOf(i.data);
  const logFile = path.join(layout.logs, "status-page.log");
  const log = createLog("status-page", "info", openLog(logFile));
  const source = await StatusSource.open({ operatorDirectory: layout.operator, mutualUrl: i.mutualUrl, kmsUrl: i.kmsUrl, clock: systemClock, log });
  try {
    const page = await serveStatusPage({ source, mode: i.mode, port: i.port, log });
    const ended = Promise.withResolvers<{ readonly code: number; readonly signal: null }>();
    const stop = async () => {
      await page.close();
      source.stop();
      ended.resolve({ code: 0, signal: null });
      return ended.promise;
    };
    log.info({ url: page.url, mode: i.mode }, "listening");
    return { name: "status page", ready: { url: page.url }, log: logFile, exit: ended.promise, stop };
  } catch (error) {
    source.stop();
    throw error;
  }
}

function openLog(file: string): number {
  try {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
    return openSync(file, "a", 0o600);
  } catch (error) {
    throw fileError(file, error);
  }
}
