/**
 * CVE-2011-0411: bytes that arrive in cleartext after STARTTLS must never reach smtpd, however they are split and
 * whenever they arrive. The cases are the same wherever TLS is done; they check smtpd's record of what it has read.
 */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { until } from './processes.ts';
import type { SmtpClient } from './smtp-client.ts';

/** A command that smtpd-script would execute, so that the client would see it too. */
export const INJECTED = 'XDO line 250 INJECTED\r\n';
/** STARTTLS with that command in the same packet. */
export const ATTACK = `STARTTLS\r\n${INJECTED}`;

const LINE_END = 'STARTTLS\r\n'.length;
/** The size of one read of a client's socket, in octets. */
const READ_SIZE = 65536;

/** One client and one smtpd-script with a record. */
export interface InjectionSession {
  readonly client: SmtpClient;
  /** All that smtpd has read so far. */
  record(): string;
  /** Settles when smtpd has read that. */
  hasRead(text: string): Promise<void>;
  /** Resumes an smtpd that waits for a signal, once it does. */
  release(): Promise<void>;
  /** Settles when smtpd has exited. */
  ended(): Promise<void>;
  /** How many octets from the client no process has read. */
  unread(): number;
  /** Whether the server may read bytes before it processes them, as a paused net.Socket does. */
  readonly readsAhead: boolean;
}

/** Opens a session before its greeting, with these options of smtpd-script. */
export type OpenSession = (t: TestContext, smtpd: readonly string[]) => Promise<InjectionSession>;

/**
 * Registers the cases.
 *
 * @param where what is attacked, for the title.
 * @param variants ways to open a session, by name. The cases that depend on how TLS is started run with each, the
 * others with the first.
 */
export function describeInjection(where: string, variants: Readonly<Record<string, OpenSession>>): void {
  describe(`commands injected after STARTTLS, ${where}`, { concurrency: 4 }, () => {
    const [first] = Object.values(variants);
    if (first === undefined) throw new Error('no way to open a session');
    for (const [name, open] of Object.entries(variants)) describeStart(name, open);
    describeSplits(first);
  });
}

/** How TLS is started, and with what the injected bytes arrive. */
function describeStart(name: string, open: OpenSession): void {
  it(`in the same packet are refused and discarded, ${name}; TLS may be started later`, async (t) => {
    const session = await openGreeted(t, open);
    session.client.send(ATTACK);
    assert.match(await session.client.reply(), /^503 5\.5\.1 /);
    await assertGoesOn(session);
  });

  it(`in a packet before the 220 go to the TLS engine, ${name}`, async (t) => {
    const session = await openDuringReset(t, open);
    await session.release();
    assert.match(await session.client.reply(), /^220 /);
    await assertNotInjected(session, 'RSET\r\n');
  });

  it(`in a packet after the 220 go to the TLS engine, ${name}`, async (t) => {
    const session = await openGreeted(t, open);
    assert.match(await session.client.ask('STARTTLS'), /^220 /);
    session.client.send(INJECTED);
    await assertNotInjected(session, 'RSET\r\n');
  });

  it(`after the 220 and before the ClientHello go to the TLS engine with it, ${name}`, async (t) => {
    const session = await openGreeted(t, open);
    assert.match(await session.client.ask('STARTTLS'), /^220 /);
    session.client.send(INJECTED);
    await assert.rejects(session.client.shakeHands());
    await assertNotInjected(session, 'RSET\r\n');
  });

  it(`followed by a ClientHello before the 220 go to the TLS engine with it, ${name}`, async (t) => {
    const session = await openDuringReset(t, open);
    const handshake = assert.rejects(session.client.shakeHands());
    await session.release();
    await handshake;
    await assertNotInjected(session, 'RSET\r\n');
  });
}

/** How the injected bytes are written and split. */
function describeSplits(open: OpenSession): void {
  it('are refused with any line ending', async (t) => {
    const session = await openGreeted(t, open);
    for (const attack of [
      `STARTTLS\n${INJECTED}`,
      `starttls\r\n\r\n${INJECTED}`,
      `STARTTLS \r\n${INJECTED}`,
      `\tSTARTTLS\r\n${INJECTED}`,
      `STARTTLS\r\n${INJECTED.trimEnd()}\n`,
      `STARTTLS\r\n${INJECTED.repeat(500)}`,
      `STARTTLS\r\nSTARTTLS\r\n${INJECTED}`,
    ]) {
      session.client.send(attack);
      assert.match(await session.client.reply(), /^503 5\.5\.1 /, attack);
    }
    await assertGoesOn(session);
  });

  it('are refused when the STARTTLS line arrives in two packets, split at any byte', async (t) => {
    const session = await openGreeted(t, open);
    for (let cut = 1; cut < LINE_END; cut++) {
      session.client.send(ATTACK.slice(0, cut));
      await isRead(session);
      session.client.send(ATTACK.slice(cut));
      assert.match(await session.client.reply(), /^503 5\.5\.1 /, `split at ${cut}`);
    }
    await assertGoesOn(session);
  });

  for (let cut = LINE_END; cut < ATTACK.length; cut++) {
    it(`never reach smtpd when the packet is split at byte ${cut}`, async (t) => {
      const session = await openGreeted(t, open);
      session.client.send(ATTACK.slice(0, cut));
      await isRead(session);
      session.client.send(ATTACK.slice(cut));
      assert.match(await session.client.reply(), cut === LINE_END ? /^220 / : /^503 /);
      if (cut !== LINE_END) session.client.sendLines('QUIT');
      await assertNotInjected(session, cut === LINE_END ? 'RSET\r\n' : 'QUIT\r\n');
    });
  }

  it('never reach smtpd when everything arrives byte by byte', async (t) => {
    const session = await openGreeted(t, open);
    const reply = session.client.reply().catch(String);
    for (const byte of ATTACK) {
      session.client.send(byte);
      // After the 220 the TLS engine reads, and it fails after a few bytes.
      if (!session.record().includes('RSET')) await isRead(session);
    }
    // Writing after it has closed the connection causes a reset, which may discard the 220.
    assert.match(await reply, /^220 |EPIPE|ECONNRESET/);
    await assertNotInjected(session, 'RSET\r\n');
  });

  it('never reach smtpd when a read ends exactly with the STARTTLS line', async (t) => {
    const session = await open(t, ['--start=await-signal; line 220 late']);
    const filler = `NOOP ${'x'.repeat(8185)}\r\n`.repeat(8);
    const first = `${filler.slice(0, -12)}\r\nSTARTTLS\r\n`;
    assert.equal(first.length, READ_SIZE);
    session.client.send(first + INJECTED);
    await haveArrived(session, READ_SIZE + INJECTED.length);
    await session.release();
    assert.match(await session.client.reply(), /^220 late/);
    for (let count = 0; count < 8; count++) assert.equal(await session.client.reply(), '250 2.0.0 Ok');
    assert.match(await session.client.reply(), /^(220|503) /);
    await assertNotInjected(session);
  });
}

async function openGreeted(
  t: TestContext,
  open: OpenSession,
  smtpd: readonly string[] = [],
): Promise<InjectionSession> {
  const session = await open(t, smtpd);
  assert.match(await session.client.reply(), /^220 /);
  return session;
}

/** A session in which the injected bytes have arrived while smtpd has not replied to RSET. */
async function openDuringReset(t: TestContext, open: OpenSession): Promise<InjectionSession> {
  const session = await openGreeted(t, open, ['--on=RSET:await-signal; line 250 ok']);
  session.client.sendLines('STARTTLS');
  await session.hasRead('RSET\r\n');
  session.client.send(INJECTED);
  await haveArrived(session, INJECTED.length);
  return session;
}

/** Settles when this many octets from the client have arrived and no process has read them. */
async function haveArrived(session: InjectionSession, octets: number): Promise<void> {
  if (session.readsAhead) return;
  await until(`${octets} octets have arrived`, () => session.unread() === octets);
}

/** Settles when everything the client has sent was read by some process. */
function isRead(session: InjectionSession): Promise<void> {
  return until('everything is read', () => session.unread() === 0);
}

/** Continues in TLS, and asserts that smtpd has read nothing else by the end. */
export async function assertGoesOn(session: InjectionSession): Promise<void> {
  await session.client.startTls();
  assert.equal(await session.client.ask('NOOP'), '250 2.0.0 Ok');
  session.client.sendLines('QUIT');
  assert.equal(await session.client.rest(), '221 2.0.0 Bye\r\n');
  await assertNotInjected(session, 'RSET\r\nNOOP\r\nQUIT\r\n');
}

/**
 * Ends the session, and asserts that at most a TLS engine has received the injected bytes.
 *
 * @param record all that smtpd should have read, where that is known.
 */
export async function assertNotInjected(session: InjectionSession, record?: string): Promise<void> {
  const received = await session.client.rest().catch(() => '');
  session.client.destroy();
  await session.ended();
  assert.doesNotMatch(received, /INJECTED/);
  assert.doesNotMatch(session.record(), /INJECTED|XDO|line 250/);
  if (record !== undefined) assert.equal(session.record(), record);
}
