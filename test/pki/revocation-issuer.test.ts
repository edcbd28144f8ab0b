import { expect, test } from "vitest";
import { systemClock } from "#pki/clock.ts";
import { validatePath } from "#pki/path-validation.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { testAuthority } from "../support/pki.ts";

test("the CRL of an issuing CA, whose key may sign certificates and CRLs and nothing else, is accepted and decides", async () => {
  const authority = await testAuthority({ now: new Date() });
  const { certificate } = await authority.issue({ role: "client", name: "alice" });
  const store = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 60_000 });
  store.accept(authority.rootCrl([]).der, []);
  store.accept(authority.leafCrl([], { crlNumber: 1n }).der, [authority.issuing]);
  const path = validatePath({ endEntity: certificate, intermediates: [authority.issuing], trustAnchors: [authority.root], purpose: "clientAuth", at: new Date() });
  expect(store.check(path).path).toBe(path);
  const thisUpdate = new Date(Date.now() - 60_000);
  store.accept(authority.leafCrl([{ serialNumber: certificate.serialNumber, revocationDate: thisUpdate }], { crlNumber: 2n, thisUpdate }).der, [authority.issuing]);
  expect(() => store.check(path)).toThrow(expect.objectContaining({ code: "certificate-revoked" }));
});
