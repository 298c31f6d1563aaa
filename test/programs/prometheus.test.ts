/** The alerts and the dashboard of docs/examples/prometheus, checked by promtool. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { REFUSALS } from '../../lib/server/connection/admission.ts';
import { ALL_FAMILIES, VERDICTS } from '../../lib/server/metrics/families.ts';
import { fetchMetrics } from '../support/metrics.ts';
import { fixture, ROOT } from '../support/programs.ts';
import { noPromtool, PROMTOOL } from '../support/promtool.ts';
import { run } from '../support/real.ts';
import { startServer } from '../support/server.ts';

const EXAMPLE = join(ROOT, 'docs/examples/prometheus');
const ALERTS = join(EXAMPLE, 'alerts.yml');
const read = (name: string): string => readFileSync(join(EXAMPLE, name), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'prometheus-'));
after(() => rmSync(folder, { recursive: true }));

/** What this test needs to know of a dashboard. */
interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
    readonly targets: readonly { readonly expr: string }[];
  }[];
}

const dashboard: Dashboard = JSON.parse(read('dashboard.json'));
const queries = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));

/** Runs promtool, which must succeed. @returns its output. */
async function promtool(words: readonly string[], input = ''): Promise<string> {
  const { status, stdout, stderr } = await run([PROMTOOL, ...words], { input });
  assert.equal(status, 0, stdout + stderr);
  return stdout + stderr;
}

function write(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

describe('promtool', { skip: noPromtool(), timeout: 60_000 }, () => {
  it('accepts the alerts', async () => {
    assert.match(await promtool(['check', 'rules', ALERTS]), /SUCCESS: 6 rules found/);
  });

  it('finds that they fire when they should', async () => {
    await promtool(['test', 'rules', join(ROOT, 'test/programs/prometheus-alerts.yml')]);
  });

  it('accepts the configuration in the README', async () => {
    const [configuration = ''] = /^ {4}rule_files:\n(?: {4}.*\n)+/m.exec(read('README.md')) ?? [];
    assert.match(configuration, /scrape_configs:/);
    const path = write(
      'prometheus.yml',
      configuration.replace('/etc/prometheus/alerts.yml', ALERTS).replace(/^ {4}/gm, ''),
    );
    assert.match(await promtool(['check', 'config', path]), /6 rules found/);
  });

  it('accepts the queries of the dashboard', async () => {
    const rules = queries.map((expr, index) => ({
      record: `query_${index}`,
      expr: expr.replaceAll('$__rate_interval', '5m'),
    }));
    // JSON is valid YAML.
    const path = write('dashboard.rules.yml', JSON.stringify({ groups: [{ name: 'dashboard', rules }] }));
    await promtool(['check', 'rules', path]);
  });

  it('finds nothing wrong with the metrics of a server', async (t) => {
    const server = await startServer(['-v2', '--metrics', '127.0.0.1:0'], fixture('smtpd-script'));
    t.after(server.close);
    assert.equal(await promtool(['check', 'metrics'], await fetchMetrics(server)), '');
  });
});

describe('the dashboard', () => {
  it('fits on one screen, and no panel covers another', () => {
    const cells = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, index) => [x + (index % w), y + Math.floor(index / w)] as const),
    );
    assert.ok(cells.every(([column, row]) => column < 24 && row < 24));
    assert.equal(new Set(cells.map(String)).size, cells.length);
    assert.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length);
  });
});

describe('alerts and dashboard', () => {
  const expressions = [...queries, ...(read('alerts.yml').match(/^ +expr: .*\n(?: {10,}.*\n)*/gm) ?? [])];

  it('name only metrics and labels that exist', () => {
    let count = 0;
    for (const expression of expressions) {
      for (const [, name = '', matchers = ''] of expression.matchAll(/smtpd_starttls_(\w+)(?:\{(.*?)\})?/g)) {
        const family = ALL_FAMILIES.find(
          (one) => name === one.name || (one.kind === 'histogram' && name === `${one.name}_bucket`),
        );
        assert.ok(family !== undefined, name);
        const labels = [...matchers.matchAll(/(\w+)[=!]/g)].map(([, label = '']) => label);
        for (const label of labels)
          assert.ok([...family.labels, 'instance'].includes(label), `${name}: ${label}`);
        count += 1;
      }
    }
    assert.ok(count > queries.length);
  });

  it('name only reasons and verdicts that exist', () => {
    const known: Readonly<Record<string, readonly string[]>> = { reason: REFUSALS, verdict: VERDICTS };
    for (const [, label = '', values = ''] of expressions
      .join('\n')
      .matchAll(/(reason|verdict)=~?"(.*?)"/g)) {
      for (const value of values.split('|')) assert.ok(known[label]?.includes(value), value);
    }
  });
});
