/** A piece of a page that is safe as it stands: made by {@link html} alone. */
export class Markup {
  readonly #brand = true;
  readonly text: string;

  private constructor(text: string) {
    this.text = text;
  }

  static is(value: unknown): value is Markup {
    return typeof value === "object" && value !== null && #brand in value && value.#brand;
  }

  /** Template of a page: its own words are markup, what is put in is text, unless it was made here too. */
  static of(words: TemplateStringsArray, ...values: readonly Value[]): Markup {
    return new Markup(words.reduce((text, word, index) => text + render(values[index - 1]) + word));
  }

  /** The content of a style or script element, which nothing is put into: it is held against its hash as it stands. */
  static verbatim(text: string): Markup {
    if (/<\/|<!--/.test(text)) throw new TypeError("This would end its element.");
    return new Markup(text);
  }
}

type Value = Markup | string | number | undefined | readonly Markup[];

export const html = Markup.of;

/** Longest text of one value: what comes from certificates and logs can be long, and a page is for reading. */
const valueLimit = 256;

function render(value: Value): string {
  if (value === undefined) return "";
  if (Markup.is(value)) return value.text;
  if (typeof value === "object") return value.map(render).join("");
  return escaped(typeof value === "number" ? value.toLocaleString("en-GB") : value);
}

/** Text with no meaning of its own in HTML or to a reader's eye: marks that nobody sees, and those that turn the order of letters, are shown by number. */
function escaped(text: string): string {
  const shown = text.length > valueLimit ? `${text.slice(0, valueLimit)}…` : text;
  return shown
    .toWellFormed()
    .replaceAll(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\u2028\u2029]/gu, (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`)
    .replaceAll(/[&<>"'`]/g, (character) => `&#${character.charCodeAt(0)};`);
}
