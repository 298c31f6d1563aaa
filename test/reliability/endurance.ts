/**
 * What takes too long for `make test`: many sessions at once, many one after the other, a siege, attacks, and idle
 * sessions without an smtpd among clients that send generated input.
 *
 *     node --import tsx test/reliability/endurance.ts hold  [--sessions 2000] [--seconds 600] [--rounds 1]
 *     node --import tsx test/reliability/endurance.ts turns [--sessions 10000] [--at-once 8]
 *     node --import tsx test/reliability/endurance.ts siege [--sessions 500] [--honest 50]
 *     node --import tsx test/reliability/endurance.ts attack [--seconds 300]
 *     node --import tsx test/reliability/endurance.ts on-demand [--sessions 5000] [--honest 50] [--seconds 600]
 *
 * Each with [--workers 1]. Prints what the server holds before, in between and afterwards. Needs `make build
 * dist/test/heap-probe.cjs`. Exits 1 when a client was not served, or not in time, or when an attack has left
 * something behind.
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { nullSmtpd } from '../bench/smtpd.ts';
import { compileKeyUpdateClient, noKeyUpdateClient } from '../support/key-update.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { inTurns, openInTls, quit, sendMessage } from './crowd.ts';
import { startFuzzedClients } from './fuzzed-clients.ts';
import { type Besieger, openSiege } from './siege.ts';
import { createProbe, formatVitals, type Vitals } from './vitals.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    sessions: { type: 'string' },
    seconds: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    'at-once': { type: 'string', default: '8' },
    honest: { type: 'string', default: '50' },
    workers: { type: 'string', default: '1' },
  },
});

/** How long an honest client may take under attack at the median, in milliseconds. */
const SERVED_IN_TIME = 1000;

/** How many clients with generated input are connected a second. */
const FUZZ_RATE = 200;

const started = performance.now();
const folder = mkdtempSync(join(tmpdir(), 'endurance-'));
const probe = createProbe();
const smtpd = nullSmtpd(folder);
let server: RunningServer | undefined;
try {
  const name = positionals[0] ?? '';
  const kind = KINDS()[name];
  if (kind === undefined)
    throw new Error(`expected one of ${Object.keys(KINDS()).join(', ')}, not "${name}"`);
  const count = number(values.sessions ?? kind.standard);
  const options = ['-q', '-c', String(kind.places(count)), '-b', '500', '--workers', values.workers];
  options.push(...(kind.options ?? []));
  server = await startServer(options, smtpd.command, { environment: probe.environment });
  print(`${name}: ${count}, smtpd: ${smtpd.name}, workers: ${values.workers}`);
  // The first session loads what stays.
  await inTurns(20, 2, async () => quit(await openInTls(portOf(server))));
  await printVitals('before', server);
  await kind.run(server, count);
} finally {
  const output = server?.stderr() ?? '';
  if (output !== '') print(`stderr: ${output.slice(0, 2000)}`);
  await server?.close();
  probe.remove();
  rmSync(folder, { recursive: true, force: true });
}

interface Kind {
  readonly standard: string;
  /** How many connections the server is to serve at once. */
  places(count: number): number;
  readonly options?: readonly string[];
  run(server: RunningServer, count: number): Promise<void>;
}

function KINDS(): Readonly<Record<string, Kind>> {
  return {
    hold: { standard: '2000', places: (count) => count, run: hold },
    turns: { standard: '10000', places: () => 400, run: takeTurns },
    attack: { standard: '0', places: () => 400, run: standAttacks },
    'on-demand': {
      standard: '5000',
      places: (count) => count + 2000,
      // Idle sessions are not to end by the idle timeout.
      options: ['--on-demand', '--smtpds', '100', '-t', '7200'],
      run: holdOnDemand,
    },
    siege: { standard: '500', places: (count) => 3 * count + number(values.honest), run: standSiege },
  };
}

/** Opens sessions in TLS, sends nothing for a long time, and then a command in each. */
async function hold(server: RunningServer, count: number): Promise<void> {
  for (let round = 1; round <= number(values.rounds); round++) {
    const sessions = await inTurns(count, 16, () => openInTls(server.port));
    await printVitals(`${sessions.length} sessions open`, server);
    await sleep(seconds(600) * 1000);
    print(`${seconds(600)} s without data`);
    const answers = await Promise.all(sessions.map((session) => session.ask('NOOP').catch(String)));
    const answered = answers.filter((answer) => answer.startsWith('250')).length;
    await printVitals(`${answered} of ${count} have answered`, server);
    await inTurns(count, 64, async (at) => sessions[at] && quit(sessions[at]));
    if (answered < count) process.exitCode = 1;
    // The connections are closed; the server learns a moment later that their smtpds have exited.
    await sleep(3000);
    await printVitals('afterwards', server);
  }
}

/** Sessions with a message each, one after the other. */
async function takeTurns(server: RunningServer, count: number): Promise<void> {
  const parts = 10;
  for (let part = 1; part <= parts; part++) {
    await inTurns(count / parts, number(values['at-once']), async () => {
      const client = await openInTls(server.port);
      const reply = await sendMessage(client, 'Subject: x\r\n\r\nhello');
      if (!reply.startsWith('250')) throw new Error(`the message was answered ${reply}`);
      await quit(client);
    });
    await sleep(1000);
    await printVitals(`after ${(count / parts) * part} sessions`, server);
  }
}

/** Idle sessions in TLS that need no smtpd; among them clients that deliver, and clients with generated input. */
async function holdOnDemand(server: RunningServer, count: number): Promise<void> {
  const before = await printVitals('at the start', server);
  const sessions = await inTurns(count, 16, () => openInTls(server.port));
  const { children } = await printVitals(`${count} sessions open`, server);
  const seed = Date.now() % 1_000_000_000;
  print(`${FUZZ_RATE} clients a second with generated input, seed ${seed}`);
  const fuzzed = startFuzzedClients(server.port, FUZZ_RATE, seed);
  const end = performance.now() + seconds(600) * 1000;
  const honest = number(values.honest);
  let delivered = 0;
  let failed = 0;
  while (performance.now() < end) {
    await inTurns(honest, honest, async () => {
      await serveOne(server).then(
        () => (delivered += 1),
        (error: unknown) => {
          failed += 1;
          print(`an honest client was not served: ${error instanceof Error ? error.message : error}`);
        },
      );
    });
    await sleep(5000);
  }
  print(
    `${await fuzzed.stop()} clients with generated input; ${delivered} messages delivered, ${failed} not`,
  );
  const answers = await Promise.all(sessions.map((session) => session.ask('NOOP').catch(String)));
  const answered = answers.filter((answer) => answer.startsWith('250')).length;
  await printVitals(`${answered} of ${count} idle sessions have answered`, server);
  await inTurns(count, 64, async (at) => sessions[at] && quit(sessions[at]));
  await sleep(8000);
  const after = await printVitals('afterwards', server);
  if (children > 0 || failed > 0 || answered < count) process.exitCode = 1;
  reportLeftovers(before, after);
}

/** Good clients among bad ones. */
async function standSiege(server: RunningServer, count: number): Promise<void> {
  const besiegers: readonly Besieger[] = ['one octet a second', 'sends nothing', 'stops in the handshake'];
  const siege = await openSiege(server.port, besiegers, count);
  await printVitals(`${count} of each: ${besiegers.join(', ')}`, server);
  const honest = number(values.honest);
  const begun = performance.now();
  const replies = await inTurns(honest, honest, async () => {
    const client = await openInTls(server.port);
    const reply = await sendMessage(client, 'Subject: x\r\n\r\nhello').catch(String);
    await quit(client);
    return reply;
  });
  const delivered = replies.filter((reply) => reply.startsWith('250')).length;
  if (delivered < honest) process.exitCode = 1;
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  await printVitals(`${delivered} of ${honest} honest clients have delivered within ${seconds} s`, server);
  print(`of the others ${siege.open()} are still there`);
  siege.end();
  await sleep(8000);
  await printVitals('afterwards', server);
}

/** Honest clients, one after the other, while other clients cost the server as much as they can. */
async function standAttacks(server: RunningServer): Promise<void> {
  const before = await printVitals('at the start', server);
  const attackers = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      fileURLToPath(new URL('attacks.ts', import.meta.url)),
      String(server.port),
      noKeyUpdateClient() ? '' : compileKeyUpdateClient(folder),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const report = text(attackers.stdout);
  const times: number[] = [];
  let failed = 0;
  const end = performance.now() + seconds(300) * 1000;
  try {
    while (performance.now() < end) {
      const begun = performance.now();
      await serveOne(server).catch((error: unknown) => {
        failed += 1;
        print(`an honest client was not served: ${error instanceof Error ? error.message : error}`);
      });
      times.push(performance.now() - begun);
      await sleep(100);
    }
  } finally {
    attackers.kill('SIGTERM');
  }
  print(`attacks:\n${(await report).replaceAll(/^/gm, '           ').trimEnd()}`);
  times.sort((one, other) => one - other);
  const at = (part: number): number => Math.round(times[Math.floor((times.length - 1) * part)] ?? Infinity);
  print(
    `${times.length} honest clients, ${failed} not served: ${at(0.5)} ms at the median, ${at(0.99)} at the 99th percentile, ${at(1)} at most`,
  );
  if (failed > 0 || at(0.5) > SERVED_IN_TIME) process.exitCode = 1;
  // The connections are closed; the server learns a moment later that their smtpds have ended.
  await sleep(8000);
  reportLeftovers(before, await printVitals('afterwards', server));
}

function reportLeftovers(before: Vitals, { descriptors, children }: Vitals): void {
  if (descriptors <= before.descriptors && children === 0) return;
  print('something is left behind');
  process.exitCode = 1;
}

async function serveOne(server: RunningServer): Promise<void> {
  const client = await openInTls(server.port);
  const reply = await sendMessage(client, 'Subject: x\r\n\r\nhello');
  if (!reply.startsWith('250')) throw new Error(`the message was answered ${reply}`);
  await quit(client);
}

/** Prints the resources of the server, and returns them. */
async function printVitals(when: string, server: RunningServer): Promise<Vitals> {
  const vitals = await probe.look(server);
  print(`${when}: ${formatVitals(vitals)}`);
  return vitals;
}

function print(text: string): void {
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  process.stdout.write(`${seconds.padStart(5)} s  ${text}\n`);
}

function seconds(standard: number): number {
  return values.seconds === undefined ? standard : number(values.seconds);
}

function number(text: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`expected a number, not ${text}`);
  return Number(text);
}

function portOf(running: RunningServer | undefined): number {
  if (running === undefined) throw new Error('there is no server');
  return running.port;
}
