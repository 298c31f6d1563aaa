/** The results as Markdown. */
import type { Figure, Result } from './figures.ts';
import type { System } from './systems.ts';

/** The system that is the floor of what we do, and the measures in which it is one. */
const FLOOR = 'least';
const FLOOR_MEASURES = new Set(['a', 'b']);

/** One table a result: each figure, its spread, its ratio to ours, the CPU time, how busy the client was. */
export function makeTables(results: readonly Result[], systems: readonly System[]): string {
  return results.map((result) => makeTable(result, systems)).join('\n');
}

function makeTable({ measure, title, unit, figures, remark }: Result, systems: readonly System[]): string {
  const withCpu = figures.some(({ cpuEach }) => cpuEach !== undefined);
  const ours = standard(figures, systems);
  const rows = figures.map((figure) => {
    const system = systems.find(({ name }) => name === figure.system);
    const name = system === undefined ? figure.system : system.title;
    if (figure.median === undefined) return [name, '', '', '', ...(withCpu ? [''] : []), '', '', figure.note];
    const spread = figure.low === figure.high ? '' : `${digits(figure.low)} to ${digits(figure.high)}`;
    const ratio = ours?.median === undefined ? '' : (figure.median / ours.median).toFixed(2);
    return [
      name,
      digits(figure.median),
      spread,
      ratio,
      ...(withCpu ? [figure.cpuEach === undefined ? '' : digits(figure.cpuEach)] : []),
      percent(figure.busy),
      percent(figure.serverBusy),
      figure.note,
    ];
  });
  const cpu = withCpu ? ['CPU ms each'] : [];
  const head = [`(${measure}) ${title}`, unit, 'spread', 'to ours', ...cpu, 'client busy', 'server busy', ''];
  return `${layOut([head, ...rows])}${remark === undefined ? '' : `\n${remark}\n`}\n`;
}

/** That to which the others are put: our server, else the first of ours, else (starts) the first of all. */
function standard(figures: readonly Figure[], systems: readonly System[]): Figure | undefined {
  const own = new Set(systems.filter(({ kind }) => kind === 'ours').map(({ name }) => name));
  const measured = figures.filter((figure) => figure.median !== undefined);
  const known = measured.some(({ system }) => systems.some(({ name }) => name === system));
  return known ? measured.find(({ system }) => own.has(system)) : measured[0];
}

/**
 * How we stand: a table beside the best of the peers, and one beside the floor.
 *
 * @returns the empty string when there was nothing to compare.
 */
export function makeSummary(results: readonly Result[], systems: readonly System[]): string {
  return [besidePeers(results, systems), besideFloor(results, systems)].filter(Boolean).join('\n');
}

/** More than 1 is better. */
function besidePeers(results: readonly Result[], systems: readonly System[]): string {
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

/** Sessions a second, where more than 1 is better, and the CPU time of one, where less is. */
function besideFloor(results: readonly Result[], systems: readonly System[]): string {
  const rows = results.flatMap((result) => {
    const ours = standard(result.figures, systems);
    const floor = result.figures.find(({ system }) => system === FLOOR);
    if (!FLOOR_MEASURES.has(result.measure) || ours === undefined || floor === undefined) return [];
    const lines = [
      [result.unit, ours.median, floor.median],
      ['CPU ms each', ours.cpuEach, floor.cpuEach],
    ] as const;
    return lines.flatMap(([unit, own, least]) => {
      if (own === undefined || least === undefined) return [];
      const title = `(${result.measure}) ${result.title}`;
      return [[title, unit, digits(own), ours.system, digits(least), (own / least).toFixed(2)]];
    });
  });
  if (rows.length === 0) return '';
  return `${layOut([['ours beside the floor', '', 'ours', '', FLOOR, 'ours / floor'], ...rows])}\n`;
}

/** The best of the peers that were measured; undefined if none was. */
export function bestPeer(result: Result, systems: readonly System[]): Figure | undefined {
  const peers = systems.filter(({ kind }) => kind === 'peer').map(({ name }) => name);
  const sign = result.better === 'more' ? -1 : 1;
  return result.figures
    .filter(({ system, median }) => median !== undefined && peers.includes(system))
    .sort((a, b) => sign * ((a.median ?? 0) - (b.median ?? 0)))[0];
}

function percent(part: number | undefined): string {
  return part === undefined ? '' : `${Math.round(part * 100)} %`;
}

/** Three significant digits, and no exponent. */
export function digits(figure: number): string {
  return figure >= 100 ? figure.toFixed(0) : figure.toPrecision(3);
}

/** Markdown that can be read as it is too: columns as wide as what is in them. */
export function layOut(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map((cell) => cell.replaceAll(/\s+/g, ' ').replaceAll('|', '\\|')));
  // A long note does not make the column wide.
  const widths = (cells[0] ?? []).map((head, column, { length }) =>
    Math.max(
      ...cells.map((row) => (head === '' && column === length - 1 ? 0 : (row[column]?.length ?? 0))),
      3,
    ),
  );
  const lines = cells.map((row) => row.map((cell, column) => pad(cell, widths[column] ?? 0, column > 0)));
  const rule = widths.map((width, column) => (column > 0 ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [lines[0] ?? [], rule, ...lines.slice(1)].map((line) => `| ${line.join(' | ')} |\n`).join('');
}

function pad(cell: string, width: number, right: boolean): string {
  return right ? cell.padStart(width) : cell.padEnd(width);
}
