/** The results as a bar chart: SVG that is readable on a light page and on a dark one. */
import type { Figure, Result } from './figures.ts';
import type { System } from './systems.ts';
import { digits } from './table.ts';

const WIDTH = 760;
const LABELS = 330;
const BARS = 300;
const ROW = 20;
const HEAD = 30;
const GAP = 16;

/** Colours that stand out from white and from black; an <img> asks the reader's system which it is. */
const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; }
  .unit { fill: #57606a; }
  .ours { fill: #1a7f37; }
  .peer { fill: #8c959f; }
  .floor { fill: #d0a215; }
  .spread { stroke: #24292f; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .unit { fill: #9198a1; }
    .ours { fill: #3fb950; }
    .peer { fill: #6e7681; }
    .floor { fill: #9e7700; }
    .spread { stroke: #e6edf3; }
  }`;

/** Draws a panel for each result, a bar for each system that was measured, a line for its spread. */
export function makeChart(results: readonly Result[], systems: readonly System[]): string {
  let top = 0;
  const panels = results.flatMap((result) => {
    const figures = result.figures.filter(({ median }) => median !== undefined);
    if (figures.length === 0) return [];
    const panel = drawPanel(result, figures, systems, top);
    top += HEAD + figures.length * ROW + GAP;
    return [panel];
  });
  const label = 'Bars: STARTTLS in front of an smtpd, ours beside others';
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${top}" width="${WIDTH}" height="${top}"`,
    `  role="img" aria-label="${label}">`,
    `<style>${STYLE}\n</style>`,
    ...panels,
    '</svg>\n',
  ].join('\n');
}

function drawPanel(
  result: Result,
  figures: readonly Figure[],
  systems: readonly System[],
  top: number,
): string {
  const most = Math.max(...figures.map(({ high }) => high), Number.MIN_VALUE);
  const title = asText(`(${result.measure}) ${result.title}`);
  const unit = asText(`${result.unit}, ${result.better} is better`);
  return [
    `<text class="title" x="0" y="${top + 18}">${title} <tspan class="unit">${unit}</tspan></text>`,
    ...figures.map((figure, row) => drawBar(figure, systems, most, top + HEAD + row * ROW)),
  ].join('\n');
}

function drawBar(figure: Figure, systems: readonly System[], most: number, top: number): string {
  const system = systems.find(({ name }) => name === figure.system);
  const scale = (value: number): string => ((Math.max(value, 0) / most) * BARS).toFixed(1);
  const [low, high] = [figure.low, figure.high].map((value) => LABELS + Number(scale(value)));
  const middle = top + ROW / 2;
  const kind = system?.kind ?? (figure.system.startsWith('node,') ? 'floor' : 'ours');
  const value = figure.median ?? 0;
  return [
    `<text x="${LABELS - 8}" y="${middle + 4}" text-anchor="end">${asText(system?.title ?? figure.system)}</text>`,
    `<rect class="${kind}" x="${LABELS}" y="${top + 3}" width="${scale(value)}" height="${ROW - 6}" rx="2"/>`,
    `<path class="spread" d="M${low} ${middle}H${high}"/>`,
    `<text x="${(high ?? LABELS) + 6}" y="${middle + 4}">${digits(value)}</text>`,
  ].join('\n');
}

function asText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
