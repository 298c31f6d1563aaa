/** Other implementations of SRS. */

import { spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import type { TestContext } from 'node:test';
import { until } from './processes.ts';
import { type Outcome, run } from './real.ts';
import { writeKeys } from './srs.ts';
import { closedPort } from './tcp.ts';

/** The domain of addresses that another implementation writes. */
export const THEIR_DOMAIN = 'theirs.example';

/** An implementation with some keys and a separator. */
export interface OtherSrs {
  /** SRS addresses of THEIR_DOMAIN for senders; undefined for one that it refuses. */
  forward(senders: readonly string[]): Promise<readonly (string | undefined)[]>;
  /** What SRS addresses stand for; undefined for one that it refuses. */
  reverse(addresses: readonly string[]): Promise<readonly (string | undefined)[]>;
}

/** Starts an implementation, until the test ends. */
export type StartOtherSrs = (t: TestContext, keys: readonly string[], separator: string) => Promise<OtherSrs>;

const PERL = `
use Mail::SRS;
my ($operation, $separator, @keys) = @ARGV;
my $srs = Mail::SRS->new(Secret => [@keys], Separator => $separator);
$SIG{__WARN__} = sub {};
while (my $address = <STDIN>) {
  chomp $address;
  my $result = eval { $operation eq 'forward' ? $srs->forward($address, '${THEIR_DOMAIN}') : $srs->reverse($address) };
  print $result // '', "\\n";
}`;

const PYTHON = `
import sys
from SRS.Guarded import Guarded
operation, separator, *keys = sys.argv[1:]
srs = Guarded(secret=tuple(keys), separator=separator)
srs.warn = lambda *words: None
for line in sys.stdin:
    try:
        address = line.rstrip("\\n")
        print(srs.forward(address, "${THEIR_DOMAIN}") if operation == "forward" else srs.reverse(address))
    except (AssertionError, ValueError):
        print("")
`;

/** The packages of Debian are for its own interpreter, which another may precede on PATH. */
export const DEBIAN_PYTHON = '/usr/bin/python3';

/** Mail::SRS, the reference. */
export const perlSrs: StartOtherSrs = (_, keys, separator) =>
  Promise.resolve(byLines((operation) => ['perl', '-e', PERL, '--', operation, separator, ...keys]));

/** python3-srs, also called pysrs. */
export const pythonSrs: StartOtherSrs = (_, keys, separator) =>
  Promise.resolve(byLines((operation) => [DEBIAN_PYTHON, '-c', PYTHON, operation, separator, ...keys]));

/** A program that reads addresses line by line, and writes an empty line for one that it refuses. */
function byLines(command: (operation: keyof OtherSrs) => readonly string[]): OtherSrs {
  const convert = async (operation: keyof OtherSrs, addresses: readonly string[]) => {
    const outcome = await run(command(operation), { input: addresses.map((one) => `${one}\n`).join('') });
    return linesOf(outcome).map((line) => (line === '' ? undefined : line));
  };
  return {
    forward: (senders) => convert('forward', senders),
    reverse: (addresses) => convert('reverse', addresses),
  };
}

function linesOf({ status, stdout, stderr }: Outcome): readonly string[] {
  if (status !== 0) throw new Error(`status ${status}: ${stderr}`);
  return stdout.split('\n').slice(0, -1);
}

/** postsrsd, a daemon for lookups by Postfix (tcp_table(5)). */
export const postsrsd: StartOtherSrs = async (t, keys, separator) => {
  const ports = { forward: await closedPort(), reverse: await closedPort() };
  const words = ['-s', writeKeys(t, keys.map((key) => `${key}\n`).join('')), '-d', THEIR_DOMAIN, '-4'];
  const daemon = spawn('postsrsd', [...words, `-a${separator}`, `-f${ports.forward}`, `-r${ports.reverse}`], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  t.after(() => daemon.kill('SIGKILL'));
  const forward = await lookUps(t, ports.forward);
  const reverse = await lookUps(t, ports.reverse);
  return { forward, reverse };
};

/** Connects to a port as soon as something listens there. @returns a function that looks up one address after the other. */
async function lookUps(t: TestContext, port: number): Promise<OtherSrs['forward']> {
  let socket: Socket | undefined;
  await until(`postsrsd listens on port ${port}`, () => {
    if (socket?.readyState === 'open') return true;
    if (socket?.connecting !== true) socket = connect(port, '127.0.0.1').on('error', () => {});
    return false;
  });
  const open = socket;
  if (open === undefined) throw new Error('not connected');
  t.after(() => open.destroy());
  const lines: AsyncIterator<string> = createLines(open)[Symbol.asyncIterator]();
  return async (addresses) => {
    const results: (string | undefined)[] = [];
    for (const address of addresses) {
      open.write(`get ${encodeURIComponent(address)}\n`);
      const line = String((await lines.next()).value);
      const [, found] = /^200 (.*)$/.exec(line) ?? [];
      results.push(found === undefined ? undefined : decodeURIComponent(found));
    }
    return results;
  };
}

function createLines(input: Socket): Interface {
  return createInterface({ input });
}
