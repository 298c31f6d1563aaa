/** A session between a fake client, a fake TLS offer and fake smtpds, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { startSession, type TlsClient, type TlsOffer } from '../../../lib/session/session.ts';
import { settle, stopClock } from '../../support/clock.ts';
import {
  createTestSmtpd,
  createTestStream,
  outcomeOf,
  type TestSmtpd,
  type TestStream,
} from '../../support/test-stream.ts';

interface Setup {
  readonly fresh?: boolean;
  /** The client is in TLS from the first byte. */
  readonly implicit?: boolean;
  readonly idleTimeout?: number;
  readonly relayIdleTimeout?: number;
  /** Bytes that the client has sent in TLS already. */
  readonly early?: string;
}

function open(t: TestContext, setup: Setup = {}) {
  const clock = stopClock(t);
  const client = createTestStream();
  const tlsStream = createTestStream();
  const smtpds: TestSmtpd[] = [];
  const environments: object[] = [];
  const messages: string[] = [];
  const verdicts: string[] = [];
  const calls: string[] = [];
  const environment = { SSL_PROTOCOL: 'TLSv1.3' };
  let completeHandshake: () => void = () => {};
  const tls: TlsOffer = {
    start: (abort) => {
      calls.push('start');
      void abort.then(() => calls.push('aborted'));
      return new Promise<TlsClient>((resolve, reject) => {
        completeHandshake = () =>
          resolve({ ...tlsStream, early: Buffer.from(setup.early ?? ''), environment });
        void abort.then(() => reject(new Error('shutting down')));
      });
    },
    decline: () => void calls.push('decline'),
  };
  const session = startSession({
    terms: {
      requireTls: false,
      plaintextAuth: false,
      errorLimit: 100,
      fresh: setup.fresh ?? false,
      idleTimeout: setup.idleTimeout ?? 300_000,
      relayIdleTimeout: setup.relayIdleTimeout,
      greetDelay: 0,
    },
    client,
    tls: setup.implicit ? undefined : tls,
    startSmtpd: (given) => {
      environments.push(given);
      const smtpd = createTestSmtpd();
      smtpds.push(smtpd);
      return smtpd;
    },
    concluded: (verdict) => verdicts.push(verdict),
    report: {
      fatal: (text) => void messages.push(`fatal: ${text}`),
      warning: (text) => void messages.push(`warning: ${text}`),
      info: (text) => void messages.push(`info: ${text}`),
    },
  });
  /** The smtpd that was started as number `index`. */
  function smtpd(index = 0): TestSmtpd {
    const one = smtpds[index];
    assert.ok(one !== undefined, `smtpd ${index} was not started`);
    return one;
  }
  return {
    ...{ clock, client, tlsStream, session, smtpd, smtpds, environments, messages, verdicts, calls },
    outcome: outcomeOf(session.ended),
    completeHandshake: async () => {
      completeHandshake();
      await settle();
    },
    /** Brings the session to the handshake. */
    askForTls: async () => {
      smtpd().send('220 hi\r\n');
      client.send('STARTTLS\r\n');
      smtpd().send('250 reset\r\n');
      await settle();
      assert.deepEqual([verdicts, calls], [['tls'], ['start']]);
    },
  };
}

/** Ends an smtpd as a process ends: its output ends too. */
async function exit(smtpd: TestSmtpd, status: number, signal?: NodeJS.Signals): Promise<void> {
  smtpd.finish();
  smtpd.exit(signal === undefined ? { status } : { status, signal });
  await settle();
}

/** Ends the side of a client that has read everything. */
async function hangUp(client: TestStream): Promise<void> {
  client.finish();
  await settle();
}

describe('a signal', () => {
  it('aborts the handshake at once', async (t) => {
    const { session, calls, client, smtpd, askForTls, outcome, messages } = open(t);
    await askForTls();
    session.terminate('SIGTERM');
    await settle();
    assert.deepEqual(calls, ['start', 'aborted'], 'the handshake continues after the first signal');
    await exit(smtpd(), 143, 'SIGTERM');
    await hangUp(client);
    assert.deepEqual(outcome(), { status: 143, signal: 'SIGTERM' });
    assert.deepEqual(messages, ['warning: unable to start TLS: shutting down']);
  });

  it('is passed on each time, to every smtpd', async (t) => {
    const { session, smtpd, askForTls, completeHandshake, tlsStream } = open(t, { fresh: true });
    await askForTls();
    await completeHandshake();
    smtpd(1).send('220 again\r\n');
    await settle();
    tlsStream.send('NOOP\r\n');
    session.terminate('SIGTERM');
    session.terminate('SIGINT');
    assert.deepEqual(smtpd(0).signals(), ['SIGTERM', 'SIGINT']);
    assert.deepEqual(smtpd(1).signals(), ['SIGTERM', 'SIGINT']);
  });

  it('gives smtpd five seconds, during which the relay continues, and then ends the session', async (t) => {
    const { clock, session, client, smtpd, outcome } = open(t);
    smtpd().send('220 hi\r\n');
    client.send('HELO client\r\n');
    await settle();
    session.terminate('SIGTERM');
    await clock.pass(4_999);
    client.send('DATA\r\n');
    smtpd().send('354 go on\r\n');
    assert.deepEqual(smtpd().signals(), ['SIGTERM']);
    assert.match(client.received(), /354 go on\r\n$/);
    await clock.pass(1);
    assert.deepEqual(smtpd().signals(), ['SIGTERM', 'SIGKILL']);
    assert.match(client.received(), /^421 4\.3\.2 [^\n]*\r\n$/m);
    await exit(smtpd(), 137, 'SIGKILL');
    await hangUp(client);
    assert.equal(outcome()?.status, 137);
  });

  it('leaves no timer when the session has ended', async (t) => {
    const { clock, session, client, smtpd, outcome } = open(t);
    smtpd().send('220 hi\r\n');
    client.send('HELO client\r\n');
    await settle();
    session.terminate('SIGTERM');
    session.terminate('SIGTERM');
    await exit(smtpd(), 0);
    await hangUp(client);
    assert.deepEqual(outcome(), { status: 0 });
    assert.equal(clock.pending(), 0);
    await clock.pass(60_000);
    assert.deepEqual(smtpd().signals(), ['SIGTERM', 'SIGTERM']);
  });

  it('causes no warning when smtpd exits because of it', async (t) => {
    const { session, client, smtpd, messages } = open(t);
    smtpd().send('220 hi\r\n');
    client.send('HELO client\r\n');
    await settle();
    session.terminate('SIGTERM');
    await exit(smtpd(), 143, 'SIGTERM');
    assert.match(client.received(), /^421 4\.3\.2 [^\n]*\r\n$/m);
    assert.deepEqual(messages, []);
  });
});

describe('a session', () => {
  it('in cleartext declines TLS once, and gives smtpd the rest of the dialogue', async (t) => {
    const { client, smtpd, calls, verdicts, environments } = open(t);
    smtpd().send('220 hi\r\n250 more\r\n');
    client.send('EHLO client\r\n');
    assert.equal(smtpd().received(), 'EHLO client\r\n');
    smtpd().send('250 host\r\n250-half a');
    client.send('MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n');
    await settle();
    assert.match(client.received(), /\r\n250-half a$/);
    assert.deepEqual([calls, verdicts, environments], [['decline'], ['plaintext'], [{}]]);
    assert.equal(smtpd().received(), 'EHLO client\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n');
  });

  it('in TLS continues with the same smtpd, and with the bytes read already', async (t) => {
    const { client, tlsStream, smtpd, smtpds, askForTls, completeHandshake } = open(t, {
      early: 'EHLO me\r\n',
    });
    await askForTls();
    await completeHandshake();
    assert.equal(smtpds.length, 1);
    assert.equal(smtpd().received(), 'RSET\r\nEHLO me\r\n');
    smtpd().send('250 host\r\n');
    assert.equal(tlsStream.received(), '250 host\r\n');
    client.send('in cleartext');
    assert.doesNotMatch(smtpd().received(), /cleartext/);
  });

  it('does not read the client between the 220 and the handshake', async (t) => {
    const { client, askForTls } = open(t);
    await askForTls();
    assert.match(client.received(), /220 2\.0\.0 [^\n]*\r\n$/);
    assert.equal(client.isRead(), false);
  });

  it('delivers in TLS what smtpd has sent before it exits during the handshake', async (t) => {
    const { client, tlsStream, smtpd, askForTls, completeHandshake } = open(t);
    await askForTls();
    smtpd().push('421 bye\r\n');
    await exit(smtpd(), 0);
    await completeHandshake();
    assert.equal(tlsStream.received().slice(0, 9), '421 bye\r\n');
    assert.doesNotMatch(client.received(), /421/);
  });

  it('that begins in TLS has no dialogue', async (t) => {
    const { client, smtpd, verdicts } = open(t, { implicit: true });
    client.send('EHLO early\r\n');
    smtpd().send('220 hi\r\n');
    assert.deepEqual([smtpd().received(), client.received()], ['EHLO early\r\n', '220 hi\r\n']);
    assert.deepEqual(verdicts, []);
  });

  it('with the verdict close ends smtpd and hangs up', async (t) => {
    const { client, smtpd, outcome, verdicts } = open(t);
    smtpd().send('220 hi\r\n');
    client.send('GET / HTTP/1.1\r\n');
    await settle();
    assert.deepEqual([verdicts, smtpd().hasEnded(), client.hasEnded()], [['close'], true, true]);
    client.finish();
    await settle();
    assert.equal(outcome(), undefined);
    await exit(smtpd(), 6);
    assert.deepEqual(outcome(), { status: 6 });
  });

  it('bounds how long a client may leave the last bytes of an smtpd unread', async (t) => {
    for (const [idleTimeout, limit] of [
      [30_000, 30_000],
      [300_000, 60_000],
    ] as const) {
      const { clock, client, smtpd, outcome } = open(t, { implicit: true, idleTimeout });
      client.stall();
      smtpd().send('250 last\r\n');
      await exit(smtpd(), 0);
      await clock.pass(limit - 1_000);
      assert.equal(client.hasEnded(), false, `abandoned before ${limit} ms`);
      await clock.pass(10_000);
      assert.deepEqual(outcome(), { status: 0 }, `not abandoned after ${limit} ms`);
      t.mock.restoreAll();
    }
  });
});

describe('the closing reply', () => {
  for (const [what, sent, status, signal, reply, message] of [
    [
      'smtpd has exited with nothing sent',
      '',
      3,
      undefined,
      /^421 4\.3\.0 /,
      /exited mid-session: exit status 3$/,
    ],
    ['smtpd has sent something and exited', '250 ok\r\n', 3, undefined, /^250 ok\r\n$/, undefined],
    [
      'smtpd has sent something and was killed',
      '250 ok\r\n',
      137,
      'SIGKILL',
      /^250 ok\r\n421 4\.3\.0 /,
      /: killed by SIGKILL$/,
    ],
    ['smtpd was killed within a line', '250-o', 137, 'SIGKILL', /^250-o$/, /: killed by SIGKILL$/],
  ] as const) {
    it(`when ${what}`, async (t) => {
      const { client, smtpd, messages } = open(t, { implicit: true });
      if (sent !== '') smtpd().send(sent);
      await exit(smtpd(), status, signal);
      assert.match(client.received(), reply);
      assert.equal(messages.length, message === undefined ? 0 : 1);
      if (message !== undefined) assert.match(messages[0] ?? '', message);
    });
  }

  it('after the relay idle timeout is a 421 4.4.2, with one line on stderr', async (t) => {
    const { clock, client, messages } = open(t, { implicit: true, relayIdleTimeout: 1_000 });
    await clock.pass(1_000);
    assert.match(client.received(), /^421 4\.4\.2 [^\n]*\r\n$/);
    assert.equal(messages.length, 1);
  });
});

describe('--fresh with an smtpd that can be renewed', () => {
  it('starts no second smtpd, and relays what the client sends in TLS', async (t) => {
    const { askForTls, completeHandshake, smtpd, smtpds, tlsStream, environments } = open(t, { fresh: true });
    const renewed: unknown[] = [];
    Object.assign(smtpd(), { renew: (environment: unknown) => renewed.push(environment) > 0 });
    await askForTls();
    await completeHandshake();
    assert.deepEqual([smtpds.length, environments], [1, [{}]]);
    assert.deepEqual(renewed, [{ SSL_PROTOCOL: 'TLSv1.3' }]);
    tlsStream.send('EHLO me\r\n');
    smtpd().send('250 host\r\n');
    assert.ok(smtpd().received().endsWith('EHLO me\r\n'));
    assert.equal(tlsStream.received(), '250 host\r\n');
  });

  it('starts a second one if it refuses', async (t) => {
    const { askForTls, completeHandshake, smtpd, smtpds } = open(t, { fresh: true });
    Object.assign(smtpd(), { renew: () => false });
    await askForTls();
    await completeHandshake();
    assert.equal(smtpds.length, 2);
  });
});

describe('the greeting of a second smtpd', () => {
  async function refresh(t: TestContext, setup: Setup = {}) {
    const opened = open(t, { ...setup, fresh: true });
    await opened.askForTls();
    await opened.completeHandshake();
    return opened;
  }

  it('is not sent to the client; the bytes after it are', async (t) => {
    const { tlsStream, smtpd, environments } = await refresh(t, { early: 'EHLO ' });
    assert.deepEqual(environments, [{}, { SSL_PROTOCOL: 'TLSv1.3' }]);
    smtpd(1).send('220-one\r\n22');
    smtpd(1).send('0 two\r\n250 unasked\r\n');
    await settle();
    assert.equal(tlsStream.received(), '250 unasked\r\n');
    tlsStream.send('me\r\n');
    assert.deepEqual([smtpd(0).received(), smtpd(1).received()], ['RSET\r\n', 'EHLO me\r\n']);
  });

  it('has the idle timeout of the dialogue between its bytes', async (t) => {
    const { clock, smtpd, tlsStream, messages } = await refresh(t, { idleTimeout: 10_000 });
    for (const piece of ['22', '0 slo', 'w']) {
      await clock.pass(9_000);
      smtpd(1).send(piece);
    }
    await clock.pass(9_999);
    assert.deepEqual(messages, []);
    await clock.pass(1);
    assert.match(messages.join(), /unable to read the greeting of the second smtpd: /);
    assert.match(tlsStream.received(), /^421 4\.3\.0 /);
  });

  it('may have 65,536 octets and no more', async (t) => {
    const line = `220-${'x'.repeat(1018)}\r\n`;
    const { smtpd, tlsStream, messages } = await refresh(t);
    smtpd(1).send(line.repeat(63));
    smtpd(1).send(`220 ${'x'.repeat(1018)}\r\n`);
    await settle();
    assert.deepEqual([messages, tlsStream.received()], [[], '']);
    const other = await refresh(t);
    other.smtpd(1).send(line.repeat(64));
    other.smtpd(1).send('2');
    await settle();
    assert.match(other.messages.join(), /too long/);
  });

  for (const greeting of ['421-busy\r\n421 come again\r\n', '450 no\r\n', '554 no\r\n', '354 what\r\n']) {
    it(`is sent to the client when it refuses service: ${greeting.slice(0, 3)}`, async (t) => {
      const { tlsStream, smtpd } = await refresh(t);
      smtpd(1).send(greeting.slice(0, 7));
      smtpd(1).send(`${greeting.slice(7)}more`);
      await settle();
      assert.equal(tlsStream.received(), `${greeting}more`);
    });
  }

  it('is not awaited after the grace period of a signal', async (t) => {
    const { clock, session, tlsStream, smtpd } = await refresh(t);
    session.terminate('SIGTERM');
    await clock.pass(5_000);
    assert.match(tlsStream.received(), /^421 4\.3\.[02] /);
    assert.deepEqual(smtpd(1).signals().slice(0, 2), ['SIGTERM', 'SIGKILL']);
  });

  it('leaves the session open until the first smtpd has ended too', async (t) => {
    const { tlsStream, smtpd, outcome } = await refresh(t);
    smtpd(1).send('220 hi\r\n');
    await settle();
    await exit(smtpd(1), 0);
    await hangUp(tlsStream);
    assert.equal(outcome(), undefined);
    await exit(smtpd(0), 7);
    assert.deepEqual(outcome(), { status: 0 });
  });
});

describe('a handshake that fails', () => {
  it('ends smtpd and the connection, with one line on stderr', async (t) => {
    const { promise, resolve: fail } = deferred();
    const clock = stopClock(t);
    const client = createTestStream();
    const smtpd = createTestSmtpd();
    const messages: string[] = [];
    const session = startSession({
      terms: {
        ...{ requireTls: true, plaintextAuth: false, errorLimit: 100, fresh: true },
        ...{ idleTimeout: 300_000, relayIdleTimeout: undefined, greetDelay: 0 },
      },
      client,
      tls: {
        start: async () => {
          await promise;
          throw new Error('no common cipher');
        },
        decline: () => assert.fail('TLS is declined'),
      },
      startSmtpd: () => smtpd,
      report: { fatal: assert.fail, info: assert.fail, warning: (text) => void messages.push(text) },
    });
    smtpd.send('220 hi\r\n');
    client.send('STARTTLS\r\n');
    smtpd.send('250 reset\r\n');
    await clock.pass(0);
    fail();
    await settle();
    assert.deepEqual(messages, ['unable to start TLS: no common cipher']);
    assert.deepEqual([smtpd.hasEnded(), client.hasEnded()], [true, true]);
    await exit(smtpd, 8);
    await hangUp(client);
    assert.deepEqual(await session.ended, { status: 8 });
  });
});
