/** Format numbers, sizes and times, in the same way for both languages. */

const GROUPED = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function formatCount(value: number): string {
  return GROUPED.format(value);
}

/** Format a size with three significant digits and a binary unit: 1.46 GiB. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Format the value of a metric with four significant digits; NaN and infinity are written as words. */
export function formatMetric(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return GROUPED.format(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  return Number(value.toPrecision(4)).toString();
}

/** Format a number that may be missing. */
export function formatOptional(
  value: number | null | undefined,
  format: (value: number) => string = formatMetric,
): string {
  return value === null || value === undefined ? '–' : format(value);
}

/** Format a metric in the unit at the end of its name. */
export function formatNamed(name: string, value: number | null | undefined): string {
  if (typeof value !== 'number' || !Number.isFinite(value)) return formatMetric(value);
  if (name.endsWith('_bytes')) return formatBytes(value);
  return name.endsWith('_seconds') ? formatDuration(value) : formatMetric(value);
}

export function formatPercent(fraction: number | null | undefined, digits = 0): string {
  return fraction === null || fraction === undefined ? 'NaN' : `${(fraction * 100).toFixed(digits)}%`;
}

/** Format a duration given in seconds: 48 s, 3 m 05 s, 2 h 10 m, 3 d 4 h. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [
    Math.floor(whole / 86_400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
  ];
  const two = (value: number) => String(value).padStart(2, '0');
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${two(minutes)} m`;
  if (minutes > 0) return `${minutes} m ${two(whole % 60)} s`;
  return `${whole} s`;
}

/** Format a time given in seconds since the epoch, in the browser's time zone: 2026-11-28 22:09:21. */
export function formatTime(seconds: number): string {
  const at = new Date(seconds * 1000);
  const two = (value: number) => String(value).padStart(2, '0');
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Estimate the remaining time in seconds from the progress so far; null if there is none yet. */
export function remainingSeconds(fraction: number, startedAt: number, now: number): number | null {
  const elapsed = now - startedAt;
  return fraction > 0.01 && fraction < 1 && elapsed > 2 ? (elapsed * (1 - fraction)) / fraction : null;
}
