/** The driver of the dialogue, between a client and an smtpd that are made up. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { deferred } from '../lib/program/deferred.ts';
import { createReporter } from '../lib/program/reporter.ts';
import { converse } from '../lib/session/converse.ts';
import { createDialogue, type Verdict } from '../lib/smtp/dialogue.ts';
import type { SinkListener, SourceListener } from '../lib/stream/byte-stream.ts';
import type { Child, ChildEnd } from '../lib/stream/child.ts';

/** A party with a log of what is done to it, and its listeners in the hand of the test. */
function makeParty() {
  const log: string[] = [];
  const party = {
    log,
    hears: { bytes() {}, ended() {} } as SourceListener,
    sees: { drained() {}, failed() {} } as SinkListener,
    /** What `write` returns. */
    takes: true,
    source: {
      listen: (listener: SourceListener) => {
        party.hears = listener;
      },
      read: () => log.push('read'),
      pause: () => log.push('pause'),
      close: () => log.push('close'),
    },
    sink: {
      listen: (listener: SinkListener) => {
        party.sees = listener;
      },
      write: (bytes: Uint8Array) => {
        log.push(Buffer.from(bytes).toString('latin1').trim());
        return party.takes;
      },
      end: () => log.push('end'),
      close: () => log.push('close'),
    },
  };
  return party;
}

function start({
  ended = new Promise<ChildEnd>(() => {}),
  ending = new Promise<void>(() => {}),
  hurry = new Promise<void>(() => {}),
  silence = 1_000_000,
} = {}) {
  const client = makeParty();
  const smtpd = makeParty();
  const child: Child = { ...smtpd, ended, kill() {} };
  const verdict: Promise<Verdict> = converse({
    dialogue: createDialogue({ requireTls: false, plaintextAuth: false }),
    client,
    smtpd: child,
    silence,
    ending,
    hurry,
    report: createReporter('test', 0),
  });
  return { client, smtpd, verdict };
}

describe('converse', () => {
  it('reads nobody while a side does not take what it was told, and goes on when it does', async () => {
    const { client, smtpd, verdict } = start();
    client.takes = false;
    smtpd.hears.bytes(Buffer.from('220 hi\r\n'));
    assert.deepEqual([client.log.at(-1), smtpd.log.at(-1)], ['pause', 'pause']);
    client.takes = true;
    client.sees.drained();
    assert.deepEqual([client.log.at(-1), smtpd.log.at(-1)], ['read', 'read']);
    client.hears.bytes(Buffer.from('HELO client\r\n'));
    assert.equal(await verdict, 'plaintext');
    assert.deepEqual([client.log.at(-1), smtpd.log.at(-1)], ['pause', 'pause']);
  });

  it('pauses nobody any more once the verdict is given, whatever it still hears', async () => {
    for (const [command, expected] of [
      ['HELO client\r\n', 'plaintext'],
      ['GET / HTTP/1.1\r\n', 'close'],
    ] as const) {
      const { client, smtpd, verdict } = start();
      smtpd.hears.bytes(Buffer.from('220 hi\r\n'));
      // smtpd closes its output; how it ends is not known before the client has spoken.
      smtpd.hears.ended();
      client.hears.bytes(Buffer.from(command));
      assert.equal(await verdict, expected);
      client.log.length = 0;
      smtpd.log.length = 0;
      smtpd.sees.failed(new Error('EPIPE'));
      client.sees.drained();
      client.sees.failed(new Error('EPIPE'));
      client.hears.ended();
      await new Promise((resolve) => setImmediate(resolve));
      assert.deepEqual([client.log, smtpd.log], [[], []]);
    }
  });

  it('gives the verdict tls with nothing left to write', async () => {
    const { client, smtpd, verdict } = start();
    smtpd.hears.bytes(Buffer.from('220 hi\r\n'));
    client.hears.bytes(Buffer.from('STARTTLS\r\n'));
    assert.equal(
      smtpd.log.findLast((entry) => entry !== 'read'),
      'RSET',
    );
    assert.equal(client.log.at(-1), 'pause');
    client.takes = false;
    smtpd.hears.bytes(Buffer.from('250 ok\r\n'));
    let given = false;
    void verdict.then(() => {
      given = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(given, false);
    client.sees.drained();
    assert.equal(await verdict, 'tls');
    assert.ok(!client.log.slice(client.log.indexOf('220 2.0.0 Ready to start TLS')).includes('read'));
  });

  it('does not wait for the output of an smtpd that has ended, which a process it left behind may hold', async () => {
    const { client, smtpd, verdict } = start({ ended: Promise.resolve({ status: 3 }) });
    smtpd.hears.bytes(Buffer.from('220 host\r\n'));
    assert.equal(await verdict, 'close');
    assert.match(client.log.join('\n'), /^421 4\.3\.0 /m);
  });

  it('says 421 to the client when it is to hurry', async () => {
    const { client, smtpd, verdict } = start({ ending: Promise.resolve(), hurry: Promise.resolve() });
    smtpd.hears.bytes(Buffer.from('220 host\r\n'));
    assert.equal(await verdict, 'close');
    assert.match(client.log.join('\n'), /^421 4\.3\.2 /m);
  });

  it('lets smtpd take its leave when it is told to end, and says 421 when smtpd does not', async () => {
    const { client, smtpd, verdict } = start({
      ending: Promise.resolve(),
      ended: Promise.resolve({ status: 143 }),
    });
    smtpd.hears.bytes(Buffer.from('220 host\r\n'));
    smtpd.hears.ended();
    assert.equal(await verdict, 'close');
    assert.match(client.log.join('\n'), /^421 4\.3\.2 /m);
  });

  it('comes to an end when nothing happens, though the client takes nothing', async () => {
    const { client, smtpd, verdict } = start({ silence: 1 });
    client.takes = false;
    smtpd.hears.bytes(Buffer.from('220 host\r\n'));
    assert.equal(await verdict, 'close');
  });

  it('comes to an end when it is to hurry, though the client takes nothing', async () => {
    const { promise, resolve } = deferred();
    const { client, smtpd, verdict } = start({ hurry: promise });
    client.takes = false;
    smtpd.hears.bytes(Buffer.from('220 host\r\n'));
    resolve();
    assert.equal(await verdict, 'close');
  });
});
