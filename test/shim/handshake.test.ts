/** Failing handshakes, misbehaving TLS servers, and their timeouts. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Duplex } from 'node:stream';
import { describe, it } from 'node:test';
import { connect } from 'node:tls';
import { unreadOctets } from '../support/kernel.ts';
import { statusOf, until } from '../support/processes.ts';
import { assertOneLine, runShim, SERVER_NAMES, type ShimRun } from '../support/shim.ts';

/** A timeout short enough for a test, and long enough for two processes to start on a busy machine. */
const SECONDS = '3';

/** The stderr output of the shim alone. */
function ours(run: Pick<ShimRun, 'served'>): string {
  return run.served.stderr().replaceAll(/^ucspi-tlsd: .*\n/gm, '');
}

for (const server of SERVER_NAMES) {
  describe(`a handshake under ${server}`, { concurrency: 4 }, () => {
    for (const [what, bytes] of [
      ['a command', 'NOOP\r\n'],
      ['an invalid record', '\x16\x03\x01\x00\x05hello'],
      ['a TLS alert', '\x15\x03\x01\x00\x02\x02\x28'],
    ] as const) {
      it(`that the client answers with ${what} ends the session, and no process is left`, async (t) => {
        const { client, ...run } = await runShim(t, { server });
        await client.reply();
        await Promise.all([run.shim(), run.smtpd()]);
        assert.match(await client.ask('STARTTLS'), /^220 /);
        client.send(bytes);
        assert.doesNotMatch(await client.rest(), /^[1-5]\d\d[ -]/m);
        client.end();
        assert.ok([0, 143].includes(await run.status()));
        await run.allGone();
        assertOneLine(ours(run), /warning: unable to start TLS: /);
        assert.equal(run.record(), 'RSET\r\n');
      });
    }

    for (const [what, hangUp] of [
      ['half-closes', 'end'],
      ['is gone', 'destroy'],
    ] as const) {
      it(`during which the client ${what} ends the session, and no process is left`, async (t) => {
        const { client, ...run } = await runShim(t, { server });
        await client.reply();
        await Promise.all([run.shim(), run.smtpd()]);
        assert.match(await client.ask('STARTTLS'), /^220 /);
        client[hangUp]();
        assert.ok([0, 143].includes(await run.status()));
        await run.allGone();
        assertOneLine(ours(run), /warning: unable to start TLS: /);
      });
    }
  });
}

describe('the answer of the TLS server', { concurrency: 4 }, () => {
  for (const server of ['empty', 'byte-by-byte', 'nameless']) {
    it(`is accepted though it is unusual: ${server}`, async (t) => {
      const { client, ...run } = await runShim(t, { server });
      await client.reply();
      await client.startTls();
      assert.equal(await client.ask('NOOP'), '250 2.0.0 Ok');
      client.sendLines('QUIT');
      client.end();
      assert.equal(await run.status(), 0);
    });
  }

  it('may be followed by the client’s first bytes, if one descriptor carries both', async (t) => {
    const { client, ...run } = await runShim(t, { server: 'eager' });
    await client.reply();
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 2.0.0 Ok');
    assert.equal(run.record(), 'RSET\r\nNOOP\r\n');
  });

  for (const [server, why] of [
    ['never-answers', 'the TLS server did not answer in time'],
    ['half-answers', 'the TLS server did not answer in time'],
    ['closes-in-answer', 'the TLS server reports a failed handshake'],
    ['garbage', 'the TLS server reports a failed handshake'],
    ['too-much', 'the answer from the TLS server is too long'],
  ] as const) {
    it(`ends the session when it is invalid: ${server}`, async (t) => {
      const { client, ...run } = await runShim(t, { server, options: ['-t', SECONDS] });
      await client.reply();
      await Promise.all([run.shim(), run.smtpd()]);
      await client.startTls();
      assert.equal(await client.rest(), '');
      client.destroy();
      assert.equal(await run.status(), 0);
      await run.allGone();
      assertOneLine(run.served.stderr(), new RegExp(`warning: unable to start TLS: ${why}$`, 'm'));
      assert.equal(run.record(), 'RSET\r\n');
    });
  }

  it('never arrives when the TLS server is killed: the session ends', async (t) => {
    const { client, ...run } = await runShim(t, { server: 'dies' });
    await client.reply();
    await Promise.all([run.shim(), run.smtpd()]);
    await client.startTls().catch(() => {});
    client.destroy();
    await run.status();
    await run.allGone();
    assertOneLine(
      run.served.stderr(),
      /warning: unable to start TLS: the TLS server reports a failed handshake/,
    );
  });
});

describe('the connection', { concurrency: 4 }, () => {
  it('is not read by the shim after STARTTLS: a late TLS server gets the whole handshake', async (t) => {
    const { client, ...run } = await runShim(t, { server: 'late' });
    await client.reply();
    const shim = await run.shim();
    assert.match(await client.ask('STARTTLS'), /^220 /);
    const handshake = client.shakeHands();
    const unread = (): number => unreadOctets(run.port, run.clientPort);
    await until('the ClientHello has arrived', () => unread() > 100);
    const first = unread();
    // A process that waits for it is awake as soon as it has arrived.
    await until('the shim sleeps', () => statusOf(shim, 'State').startsWith('S'));
    assert.equal(unread(), first);
    process.kill(run.served.pid, 'SIGUSR1');
    await handshake;
    assert.equal(await client.ask('NOOP'), '250 2.0.0 Ok');
  });

  it('is not read when the ClientHello arrives before the 220', async (t) => {
    const { client, ...run } = await runShim(t, { smtpd: ['--on=RSET:await-signal; line 250 ok'] });
    await client.reply();
    client.sendLines('STARTTLS');
    await run.hasRead('RSET\r\n');
    const tcp = client.socket();
    tcp.removeAllListeners('data');
    const wire = new Duplex({
      read() {},
      write: (bytes, _encoding, done) => tcp.write(bytes, done),
    });
    const READY = '220 2.0.0 Ready to start TLS\r\n';
    let reply = '';
    tcp.on('data', (bytes: Buffer) => {
      // The TLS server may answer the ClientHello before the 220 is read here.
      const size = Math.min(READY.length - reply.length, bytes.length);
      reply += bytes.toString('latin1', 0, size);
      if (size < bytes.length) wire.push(bytes.subarray(size));
    });
    const secure = connect({ socket: wire, rejectUnauthorized: false });
    await until('the ClientHello has arrived', () => unreadOctets(run.port, run.clientPort) > 100);
    await run.release();
    await once(secure, 'secureConnect');
    assert.equal(reply, READY);
    secure.write('NOOP\r\n');
    assert.equal(String(...(await once(secure, 'data'))), '250 2.0.0 Ok\r\n');
    secure.destroy();
  });
});

describe('in the dialogue, -t', { concurrency: 4 }, () => {
  it('ends a session in which the client sends nothing', async (t) => {
    const { client, ...run } = await runShim(t, { options: ['-t', SECONDS] });
    await client.reply();
    await Promise.all([run.shim(), run.smtpd()]);
    assert.match(await client.rest(), /^421 4\.4\.2 [^\n]*\n$/);
    client.end();
    assert.equal(await run.status(), 0);
    await run.allGone();
  });

  it('ends a session in which smtpd sends no greeting, and smtpd with it', async (t) => {
    const smtpd = ['--start=await-nothing'];
    const { client, ...run } = await runShim(t, { options: ['-t', SECONDS], smtpd });
    await Promise.all([run.shim(), run.smtpd()]);
    assert.match(await client.rest(), /^421 4\.4\.2 [^\n]*\n$/);
    client.end();
    assert.equal(await run.status(), 143);
    await run.allGone();
  });

  it('ends a session in which smtpd sends half a greeting line', async (t) => {
    const { client } = await runShim(t, {
      options: ['-t', SECONDS],
      smtpd: ['--start=write 220 hal; await-end; exit 0'],
    });
    assert.match(await client.rest(), /^421 4\.4\.2 [^\n]*\n$/);
  });

  it('ends a session in which smtpd does not answer RSET, without TLS', async (t) => {
    const { client, ...run } = await runShim(t, {
      options: ['-t', SECONDS],
      smtpd: ['--on=RSET:await-end; exit 0'],
    });
    await client.reply();
    assert.match(await client.ask('STARTTLS'), /^421 4\.4\.2 /);
    client.end();
    assert.equal(await run.status(), 0);
  });

  it('does not apply to the relay', async (t) => {
    const { client, ...run } = await runShim(t, {
      options: ['-t', SECONDS, '-T', '4'],
      smtpd: ['--on=NOOP:await-signal; line 250 late'],
    });
    await client.reply();
    await client.ask('HELO client');
    // Only -T ends this session: its 421 comes in the relay, although smtpd is the idle side.
    assert.match(await client.ask('NOOP'), /^421 4\.4\.2 /);
    await run.served.logs(/\n/);
    assertOneLine(run.served.stderr(), /warning: relay idle timeout, closing$/m);
  });
});

describe('in the relay, -T', { concurrency: 4 }, () => {
  for (const [what, how] of [
    ['in cleartext', 'HELO'],
    ['in TLS', 'STARTTLS'],
  ] as const) {
    it(`sends a 421 to an idle client, ${what}`, async (t) => {
      const { client, ...run } = await runShim(t, { options: ['-T', SECONDS] });
      await client.reply();
      await Promise.all([run.shim(), run.smtpd()]);
      if (how === 'HELO') await client.ask('HELO client');
      else await client.startTls();
      assert.match(await client.rest(), /^421 4\.4\.2 [^\n]*\n$/);
      client.end();
      assert.equal(await run.status(), 0);
      await run.allGone();
      assertOneLine(run.served.stderr(), /warning: relay idle timeout, closing$/m);
    });
  }

  it('sends nothing in the middle of a line of smtpd', async (t) => {
    const { client } = await runShim(t, { options: ['-T', SECONDS] });
    await client.reply();
    await client.ask('HELO client');
    client.sendLines('XDO write 250-half; await-end; exit 0');
    assert.equal(await client.rest(), '250-half');
  });
});

describe('on stderr', { concurrency: 4 }, () => {
  it('-v 2 describes the TLS session in one line', async (t) => {
    const { client, ...run } = await runShim(t, { options: ['-v', '2'] });
    await client.reply();
    await client.startTls({ servername: 'mail.example.org' });
    await client.ask('NOOP');
    await run.served.logs(/\n/);
    assertOneLine(
      run.served.stderr(),
      /^smtpd-starttls-proxy-io: info: TLS with 127\.0\.0\.1: TLSv1\.3, TLS_\w+, SNI "mail\.example\.org", no client certificate$/m,
    );
  });

  it('a certificate cannot forge a line, whatever its subject', async (t) => {
    const { client, ...run } = await runShim(t, { server: 'forger', options: ['-v', '2'] });
    await client.reply();
    await client.startTls();
    await client.ask('NOOP');
    await run.served.logs(/\n/);
    assertOneLine(run.served.stderr(), /CN=eve\\x0asmtpd-starttls-proxy-io: .*\\x1b\[2J\\x7f\\x9b\\u2028"$/m);
    assert.match(run.served.stderr(), /^[ -~]*\n$/);
  });

  it('there is nothing about a session without errors', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    await client.startTls();
    client.sendLines('QUIT');
    await client.rest();
    client.end();
    assert.equal(await run.status(), 0);
    assert.equal(run.served.stderr(), '');
  });

  it('-v 0 suppresses warnings', async (t) => {
    const { client, ...run } = await runShim(t, { options: ['-v', '0'] });
    await client.reply();
    client.sendLines('STARTTLS', 'XDO die SIGKILL');
    assert.match(await client.reply(), /^503 /);
    client.sendLines('XDO die SIGKILL');
    await client.rest();
    client.end();
    assert.equal(await run.status(), 137);
    assert.equal(run.served.stderr(), '');
  });
});
