/**
 * What takes too long for `make test`: many sessions at once, many one after the other, and a siege.
 *
 *     node --import tsx test/reliability/endurance.ts hold  [--sessions 2000] [--seconds 600] [--rounds 1]
 *     node --import tsx test/reliability/endurance.ts turns [--sessions 10000] [--at-once 8]
 *     node --import tsx test/reliability/endurance.ts siege [--sessions 500] [--honest 50]
 *
 * Each with [--workers 1]. Prints what the server holds before, in between and afterwards. Needs `make build
 * dist/test/heap-probe.cjs`. Exits 1 when a client was not served.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { nullSmtpd } from '../bench/smtpd.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { inTurns, openInTls, quit, sendMessage } from './crowd.ts';
import { type Besieger, openSiege } from './siege.ts';
import { createProbe, formatVitals } from './vitals.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    sessions: { type: 'string' },
    seconds: { type: 'string', default: '600' },
    rounds: { type: 'string', default: '1' },
    'at-once': { type: 'string', default: '8' },
    honest: { type: 'string', default: '50' },
    workers: { type: 'string', default: '1' },
  },
});

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
  server = await startServer(options, smtpd.command, { environment: probe.environment });
  say(`${name}: ${count}, smtpd: ${smtpd.name}, workers: ${values.workers}`);
  // The first session loads what stays.
  await inTurns(20, 2, async () => quit(await openInTls(portOf(server))));
  await tell('before', server);
  await kind.run(server, count);
} finally {
  const said = server?.stderr() ?? '';
  if (said !== '') say(`stderr: ${said.slice(0, 2000)}`);
  await server?.close();
  probe.remove();
  rmSync(folder, { recursive: true, force: true });
}

interface Kind {
  readonly standard: string;
  /** How many connections the server is to serve at once. */
  places(count: number): number;
  run(server: RunningServer, count: number): Promise<void>;
}

function KINDS(): Readonly<Record<string, Kind>> {
  return {
    hold: { standard: '2000', places: (count) => count, run: hold },
    turns: { standard: '10000', places: () => 400, run: takeTurns },
    siege: { standard: '500', places: (count) => 3 * count + number(values.honest), run: standSiege },
  };
}

/** Opens sessions in TLS, says nothing for a long time, and then asks each for a word. */
async function hold(server: RunningServer, count: number): Promise<void> {
  for (let round = 1; round <= number(values.rounds); round++) {
    const sessions = await inTurns(count, 16, () => openInTls(server.port));
    await tell(`${sessions.length} sessions open`, server);
    await sleep(number(values.seconds) * 1000);
    say(`${values.seconds} s of silence`);
    const answers = await Promise.all(sessions.map((session) => session.ask('NOOP').catch(String)));
    const answered = answers.filter((answer) => answer.startsWith('250')).length;
    await tell(`${answered} of ${count} have answered`, server);
    await inTurns(count, 64, async (at) => sessions[at] && quit(sessions[at]));
    if (answered < count) process.exitCode = 1;
    // The connections are closed; that their smtpds have ended the server learns a moment later.
    await sleep(3000);
    await tell('afterwards', server);
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
    await tell(`after ${(count / parts) * part} sessions`, server);
  }
}

/** Honest clients among others that are not. */
async function standSiege(server: RunningServer, count: number): Promise<void> {
  const besiegers: readonly Besieger[] = ['one octet a second', 'says nothing', 'stops in the handshake'];
  const siege = await openSiege(server.port, besiegers, count);
  await tell(`${count} of each: ${besiegers.join(', ')}`, server);
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
  await tell(`${delivered} of ${honest} honest clients have delivered within ${seconds} s`, server);
  say(`of the others ${siege.open()} are still there`);
  siege.end();
  await sleep(8000);
  await tell('afterwards', server);
}

async function tell(when: string, server: RunningServer): Promise<void> {
  say(`${when}: ${formatVitals(await probe.look(server))}`);
}

function say(text: string): void {
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  process.stdout.write(`${seconds.padStart(5)} s  ${text}\n`);
}

function number(text: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`expected a number, not ${text}`);
  return Number(text);
}

function portOf(running: RunningServer | undefined): number {
  if (running === undefined) throw new Error('there is no server');
  return running.port;
}
