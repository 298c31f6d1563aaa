/** The results as Markdown. */
import type { Figure, Result } from './figures.ts';
import type { System } from './systems.ts';

/** One table a result: each figure, its spread, its ratio to ours, how busy the client was. */
export function makeTables(results: readonly Result[], systems: readonly System[]): string {
  return results.map((result) => makeTable(result, systems)).join('\n');
}

function makeTable({ measure, title, unit, figures }: Result, systems: readonly System[]): string {
  const ours = standard(figures, systems);
  const rows = figures.map((figure) => {
    const system = systems.find(({ name }) => name === figure.system);
    const name = system === undefined ? figure.system : system.title;
    if (figure.median === undefined) return [name, '', '', '', '', '', figure.note];
    const spread = figure.low === figure.high ? '' : `${digits(figure.low)} to ${digits(figure.high)}`;
    const ratio = ours?.median === undefined ? '' : (figure.median / ours.median).toFixed(2);
    return [
      name,
      digits(figure.median),
      spread,
      ratio,
      percent(figure.busy),
      percent(figure.serverBusy),
      figure.note,
    ];
  });
  const head = [`(${measure}) ${title}`, unit, 'spread', 'to ours', 'client busy', 'server busy', ''];
  return `${layOut([head, ...rows])}\n`;
}

/** That to which the others are put: our server, else the first of ours, else (starts) the first of all. */
function standard(figures: readonly Figure[], systems: readonly System[]): Figure | undefined {
  const own = new Set(systems.filter(({ ours }) => ours).map(({ name }) => name));
  const measured = figures.filter((figure) => figure.median !== undefined);
  const known = measured.some(({ system }) => systems.some(({ name }) => name === system));
  return known ? measured.find(({ system }) => own.has(system)) : measured[0];
}

/**
 * One table of how we stand beside the best of the peers, more than 1 being better.
 *
 * @returns the empty string when there was nothing to compare.
 */
export function makeSummary(results: readonly Result[], systems: readonly System[]): string {
  const rows = results.flatMap((result) => {
    const ours = standard(result.figures, systems);
    const peer = bestPeer(result, systems);
    if (ours?.median === undefined || peer?.median === undefined) return [];
    const [own, other] = [ours.median, peer.median];
    const lead = result.better === 'more' ? own / other : other / own;
    const title = `(${result.measure}) ${result.title}`;
    return [[title, digits(own), ours.system, digits(other), peer.system, lead.toFixed(2)]];
  });
  if (rows.length === 0) return '';
  return `${layOut([['ours beside the best peer', 'ours', '', 'best peer', '', 'times as good'], ...rows])}\n`;
}

function bestPeer(result: Result, systems: readonly System[]): Figure | undefined {
  const peers = systems.filter(({ ours }) => !ours).map(({ name }) => name);
  const sign = result.better === 'more' ? -1 : 1;
  return result.figures
    .filter(({ system, median }) => median !== undefined && peers.includes(system))
    .sort((a, b) => sign * ((a.median ?? 0) - (b.median ?? 0)))[0];
}

function percent(part: number | undefined): string {
  return part === undefined ? '' : `${Math.round(part * 100)} %`;
}

/** Three significant digits, and no exponent. */
function digits(figure: number): string {
  return figure >= 100 ? figure.toFixed(0) : figure.toPrecision(3);
}

/** Markdown that can be read as it is too: columns as wide as what is in them. */
function layOut(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map((cell) => cell.replaceAll(/\s+/g, ' ').replaceAll('|', '\\|')));
  // A long note does not make the column wide.
  const widths = (cells[0] ?? []).map((_, column) =>
    Math.max(...cells.map((row) => (column < 6 ? (row[column]?.length ?? 0) : 0)), 3),
  );
  const lines = cells.map((row) => row.map((cell, column) => pad(cell, widths[column] ?? 0, column > 0)));
  const rule = widths.map((width, column) => (column > 0 ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [lines[0] ?? [], rule, ...lines.slice(1)].map((line) => `| ${line.join(' | ')} |\n`).join('');
}

function pad(cell: string, width: number, right: boolean): string {
  return right ? cell.padStart(width) : cell.padEnd(width);
}
