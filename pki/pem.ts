/** Textual encodings of certificates, requests, CRLs and keys (RFC 7468). */
import { asBuffer } from "./der.ts";
import { SignetError } from "./errors.ts";

/** One block under `label`, in lines of 64 characters, with a newline at the end. */
export function pemEncode(label: string, der: Uint8Array): string {
  const base64 = asBuffer(der).toString("base64");
  const lines = base64.match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.map((line) => `${line}\n`).join("")}-----END ${label}-----\n`;
}

const boundary = /^-----(BEGIN|END) ((?:[!-,.-~](?:[ -]?[!-,.-~])*)?)-----$/;
const base64Line = /^[A-Za-z0-9+/]{1,76}={0,2}$/;

/**
 * All blocks of `text`, in order. Text outside of blocks is explanatory (RFC 7468 section 5.2) and passed over; inside there is
 * base64 only, canonical and padded: no header lines, no other characters.
 * @throws SignetError `pem-malformed`
 */
export function pemDecodeAll(text: string): { label: string; der: Uint8Array }[] {
  const blocks: { label: string; der: Uint8Array }[] = [];
  let label: string | undefined;
  let base64: string[] = [];
  for (const [index, raw] of text.split(/\r\n|\n|\r/).entries()) {
    const line = raw.trimEnd();
    const fail = (reason: string): never => {
      throw new SignetError("pem-malformed", `Line ${index + 1}: ${reason}.`, { details: { line: index + 1 } });
    };
    const [, which, name = ""] = boundary.exec(line) ?? [];
    if (which === undefined) {
      if (line.startsWith("-----")) fail("broken boundary");
      if (label === undefined || line === "") continue;
      if (!base64Line.test(line)) fail("not base64");
      base64.push(line);
    } else if (which === "BEGIN") {
      if (label !== undefined) fail("block inside a block");
      label = name;
      base64 = [];
    } else {
      if (label === undefined || label !== name) fail("END without its BEGIN");
      const joined = base64.join("");
      const der = Buffer.from(joined, "base64");
      if (der.length === 0 || der.toString("base64") !== joined) fail("base64 is not canonical");
      blocks.push({ label: name, der });
      label = undefined;
    }
  }
  if (label !== undefined) throw new SignetError("pem-malformed", `The block ${label} has no end.`);
  return blocks;
}

/** The DER of every block under `label`; blocks under other labels are passed over. @throws SignetError `pem-malformed` */
export function pemDecodeLabel(text: string, label: string): Uint8Array[] {
  return pemDecodeAll(text)
    .filter((block) => block.label === label)
    .map((block) => block.der);
}

/** The DER of the only block under `label`. @throws SignetError `pem-malformed` if there are none or several */
export function pemDecodeOne(text: string, label: string): Uint8Array {
  const [der, ...more] = pemDecodeLabel(text, label);
  if (der === undefined || more.length > 0) throw new SignetError("pem-malformed", `Exactly one block ${label} is expected; there are ${more.length + (der === undefined ? 0 : 1)}.`);
  return der;
}
