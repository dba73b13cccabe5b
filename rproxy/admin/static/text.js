// How numbers, times and foreign texts are written.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const NOTHING = "–";

/** A count. */
export function count(number) {
  return whole.format(number);
}

/** So many bytes. */
export function size(bytes) {
  for (const [power, unit] of [[3, "GiB"], [2, "MiB"], [1, "KiB"]]) {
    if (bytes >= 1024 ** power) return `${(bytes / 1024 ** power).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

/** So many a second. */
export function rate(number) {
  if (number === null || number === undefined) return NOTHING;
  return number > 0 && number < 9.95 ? number.toFixed(1) : whole.format(number);
}

/** How long something took, from seconds. */
export function took(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${whole.format(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toPrecision(seconds < 0.1 ? 2 : 3)} ms`;
  return `${seconds.toPrecision(3)} s`;
}

/** How long something has been so, from seconds. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds < 120) return `${whole.format(Math.max(0, seconds))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** From a number from 0 to 1. */
export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** The time of day, from seconds since 1970. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** What others chose, with what can't be seen, or turns round what is beside it, made visible. */
export function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

/** `up (2), down (1)`, from numbers of processes by name; without the number where all of them say so. */
export function listed(numbers, processes) {
  const names = Object.entries(numbers);
  return names.map(([name, number]) => (number < processes ? `${visible(name)} (${number})` : visible(name))).join(", ");
}
