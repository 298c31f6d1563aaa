/**
 * An smtpd that does what its command line and its client specify: see script/actions.ts.
 *
 *     --record=FILE           everything that it reads is written there, octet for octet
 *     --start=ACTIONS         instead of the greeting
 *     --start-in-tls=ACTIONS  instead of the greeting, when the environment describes TLS
 *     --on=VERB:ACTIONS       instead of the usual reply to a command
 *     --end=ACTIONS           at the end of its input, instead of exiting
 *     --signal=NAME:ACTIONS   instead of the default action of a signal
 *     --prologue=ACTIONS      before everything else
 *
 * The client may send `XDO actions` at any time.
 */

import { appendFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createActor } from './script/actions.ts';
import { createInput } from './script/input.ts';
import { usualReply } from './script/replies.ts';

const options = process.argv.slice(2).map((word) => {
  const [, name = '', value = ''] = /^--([a-z-]+)=(.*)$/s.exec(word) ?? [];
  if (name === '') throw new Error(`no option: ${word}`);
  return { name, value };
});

function option(name: string): string | undefined {
  return options.find((one) => one.name === name)?.value;
}

/** Actions by what they wait for. */
function table(name: string): Map<string, string> {
  const entries = options.filter((one) => one.name === name).map((one) => one.value.split(/:(.*)/s));
  return new Map(entries.map(([key = '', actions = '']) => [key, actions]));
}

const record = option('record');
const input = createInput((bytes) => {
  if (record !== undefined) appendFileSync(record, bytes);
});
const actor = createActor(input, record ?? join(tmpdir(), `smtpd-script-${process.pid}`));
const onVerb = table('on');

for (const [signal, actions] of table('signal')) {
  process.on(signal as NodeJS.Signals, () => void actor.act(actions));
}

// Keeps the event loop alive while actions wait for a signal, for example after the end of the input.
setInterval(() => {}, 60_000);
void main();

async function main(): Promise<void> {
  await actor.act(option('prologue') ?? '');
  const start = option('start') ?? 'line 220 smtpd-script ready';
  await actor.act(process.env.SSL_PROTOCOL === undefined ? start : (option('start-in-tls') ?? start));
  for (;;) {
    const line = await input.line();
    if (line === undefined) break;
    const [, verb = '', rest = ''] = /^(\S*) ?(.*?)\r?$/s.exec(line.toString('latin1')) ?? [];
    const name = verb.toUpperCase();
    await actor.act(name === 'XDO' ? rest : (onVerb.get(name) ?? usualReply(name, rest)));
  }
  await actor.act(option('end') ?? 'exit 0');
}
