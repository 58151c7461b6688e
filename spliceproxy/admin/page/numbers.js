/* Numbers and times as people read them. */

const UNITS = ["", "k", "M", "G", "T", "P", "E"];

const scaled = (value) => {
  let step = 0;
  let left = value;
  while (Math.abs(left) >= 999.5 && step < UNITS.length - 1) {
    left /= 1000;
    step += 1;
  }
  const places = step === 0 || left >= 99.95 ? 0 : left >= 9.995 ? 1 : 2;
  return [left.toFixed(places), UNITS[step]];
};

const count = (value) => {
  if (value === null || value === undefined) return "–";
  if (value < 100000) return Math.round(value).toLocaleString("en");
  const [number, prefix] = scaled(value);
  return number + " " + prefix;
};

const bytes = (value) => {
  if (value === null || value === undefined) return "–";
  const [number, prefix] = scaled(value);
  return number + " " + prefix + "B";
};

const rate = (value) => {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 10) return value.toFixed(1);
  const [number, prefix] = scaled(value);
  return number + (prefix && " " + prefix);
};

const duration = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return (seconds * 1e6).toFixed(0) + " µs";
  if (seconds < 0.0995) return (seconds * 1e3).toFixed(1) + " ms";
  if (seconds < 0.9995) return (seconds * 1e3).toFixed(0) + " ms";
  if (seconds < 99.5) return seconds.toFixed(1) + " s";
  return span(seconds);
};

/* A time that is known to lie in a bucket: no more digits than mean something. */
const estimate = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  const [value, unit] = seconds < 1e-3 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return "≈ " + Number(value.toPrecision(2)) + " " + unit;
};

const span = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let left = whole;
  const words = [];
  for (const [size, name] of parts) {
    const n = Math.floor(left / size);
    left -= n * size;
    if (n || (name === "s" && !words.length)) words.push(n + " " + name);
    if (words.length === 2) break;
  }
  return words.join(" ");
};

const pad = (n) => String(n).padStart(2, "0");
const clock = (unix) => {
  const at = new Date(unix * 1000);
  return pad(at.getHours()) + ":" + pad(at.getMinutes()) + ":" + pad(at.getSeconds());
};
const moment = (unix) => {
  const at = new Date(unix * 1000);
  const today = new Date().toDateString() === at.toDateString();
  return (today ? "" : pad(at.getMonth() + 1) + "-" + pad(at.getDate()) + " ") + clock(unix);
};
const percent = (part) => (100 * part).toFixed(part < 0.0995 ? 1 : 0) + " %";
