import assert from 'node:assert/strict';
import { get } from 'node:http';
import type { RunningServer } from './server.ts';

/**
 * Reads the metrics of a server that was started with `--metrics` and logs its port (`-v` 2).
 *
 * @returns the series with their values, without the prefix that all share.
 */
export async function readMetrics(server: RunningServer): Promise<ReadonlyMap<string, number>> {
  return parse(await fetchMetrics(server));
}

/** The same as the text that Prometheus reads. */
export async function fetchMetrics(server: RunningServer): Promise<string> {
  await server.logs(/event=metrics port=\d+\n/);
  const port = Number(/event=metrics port=(\d+)/.exec(server.stderr())?.[1]);
  return fetchText(`http://127.0.0.1:${port}/metrics`);
}

function fetchText(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get(url, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => {
        text += piece;
      });
      response.on('end', () => resolve(text));
      response.on('error', reject);
    }).on('error', reject);
  });
}

function parse(text: string): ReadonlyMap<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const [, name = '', value] = /^smtpd_starttls_(\S+) (\S+)$/.exec(line) ?? [];
      assert.notEqual(name, '', line);
      return [name, Number(value)];
    }),
  );
}
