/** The server before a server that a URL names (--to URL). What each scheme promises: test/relay/schemes.test.ts. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type FarServer, type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { sha256OfKey } from '../support/pin.ts';
import { until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { sendMail, sendMessage } from '../support/relay.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectTls, connectTo } from '../support/smtp-client.ts';
import { noSshd, startSshd } from '../support/sshd.ts';
import { closedPort } from '../support/tcp.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const ofNobody = certificates.selfSigned('localhost');
const TRUST: NodeJS.ProcessEnv = { RELAY_CAFILE: authority.certFile };

async function startTo(
  t: TestContext,
  url: string,
  options: readonly string[] = [],
  environment = TRUST,
): Promise<RunningServer> {
  const words = ['-v', '2', '-l', 'relay.example', ...options, '--to', url];
  const server = await startServer(words, [], { environment });
  t.after(server.close);
  return server;
}

/** A server, and the one that it passes mail on to by SCHEME://localhost. */
async function startBoth(
  t: TestContext,
  scheme: string,
  far: FarServerOptions,
  ...options: readonly string[]
): Promise<{ readonly far: FarServer; readonly server: RunningServer }> {
  const started = await startFarServer(t, far);
  return { far: started, server: await startTo(t, `${scheme}://localhost:${started.port}`, options) };
}

function isClosed({ connections }: FarServer): boolean {
  return connections.every(({ socket }) => socket.destroyed);
}

/** What each connection has received, TLS decrypted. */
function received({ connections }: FarServer): string[] {
  return connections.map(({ cleartext, tls }) => (tls === '' ? cleartext : tls));
}

/** Waits for the server to be reached, or tried to be: it has a new connection. */
function connected(far: FarServer, count: number): Promise<void> {
  return until(`${count} connections`, () => far.connections.length === count);
}

describe('a message is passed on', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [scheme, behaviour, delivered] of [
    ['tls', { pair }, 'in TLS'],
    ['smtps', { pair, implicit: true }, 'in TLS'],
    ['ssl', { pair }, 'in TLS'],
    ['smtp+tls', { pair: ofNobody }, 'in TLS'],
    ['smtp+tls', {}, 'in cleartext'],
    ['smtp', { pair }, 'in cleartext'],
  ] as const) {
    for (const how of ['in cleartext', 'in TLS', 'on demand']) {
      it(`${delivered} by ${scheme}://, for a client ${how}`, async (t) => {
        const { far, server: to } = await startBoth(t, scheme, behaviour, ...optionsOf(how));
        const client = how === 'in TLS' ? await connectTls(t, to) : await connectTo(t, to);
        const refusal = how === 'in TLS' ? await sendMail(client) : await sendMessage(client);
        assert.equal(refusal, undefined);
        assert.equal(far.connections.at(-1)?.delivered, delivered);
        await to.logs(
          new RegExp(`event=end .* smtpd=${scheme.replace('+', '\\+')}://localhost:${far.port} status=0 `),
        );
      });
    }
  }

  it('to a Unix socket, whose server is verified by its key', async (t) => {
    const path = join(certificates.folder, 'socket');
    const far = await startFarServer(t, { pair: ofNobody }, { path });
    const server = await startTo(t, `tls+unix:${path}`, ['--pin', sha256OfKey(ofNobody.certFile)]);
    assert.equal(await sendMessage(await connectTo(t, server)), undefined);
    assert.equal(far.connections[0]?.delivered, 'in TLS');
  });

  it('by LMTP, to a client that uses it too', async (t) => {
    const { far, server } = await startBoth(t, 'lmtp', {});
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 relay.example LMTP');
    assert.equal(await client.ask('LHLO me'), '250-far.example\n250-PIPELINING\n250 STARTTLS');
    await client.startTls();
    await client.ask('LHLO me');
    assert.equal(await client.ask('MAIL FROM:<a@b>'), '250 ok');
    assert.equal(far.connections[0]?.cleartext, 'LHLO me\r\nMAIL FROM:<a@b>\r\n');
  });

  it('by ssh', { skip: noSshd() }, async (t) => {
    // Short: paths of Unix sockets are limited.
    const runtime = mkdtempSync(join(tmpdir(), 'relay-'));
    const folder = mkdtempSync(join(tmpdir(), 'relay-ssh-'));
    t.after(() => {
      rmSync(runtime, { recursive: true, force: true });
      rmSync(folder, { recursive: true, force: true });
    });
    const sshd = await startSshd(t, folder, fixture('smtpd-script').join(' '));
    const words = [...sshd.words, '-o', 'ControlPersist=1'].map((word) => `--ssh-option=${word}`);
    const url = `ssh://127.0.0.1:${sshd.port}`;
    const server = await startTo(t, url, words, { XDG_RUNTIME_DIR: runtime });
    const client = await connectTls(t, server);
    // The environment of an smtpd on the other side is none of ours.
    const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
    assert.equal(environment.CERTFILE, undefined);
    assert.equal(await sendMail(client), undefined);
    sshd.knowHosts('');
    rmSync(runtime, { recursive: true, force: true });
    const other = await startTo(t, url, words, { XDG_RUNTIME_DIR: folder });
    assert.match((await sendMessage(await connectTo(t, other))) ?? '', /^451 4\.4\.1 /);
  });
});

function optionsOf(how: string): readonly string[] {
  return how === 'on demand' ? ['--on-demand'] : [];
}

describe('a session with a server by URL', { concurrency: 3, timeout: 60_000 }, () => {
  it('offers what the server offers, less its STARTTLS and AUTH', async (t) => {
    const offers = ['SIZE 1000', 'AUTH PLAIN', 'AUTH=LOGIN', '8BITMIME'];
    const { far, server } = await startBoth(t, 'tls', { pair, offers });
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 relay.example ESMTP');
    assert.equal(far.connections.length, 0);
    const reply = '250-far.example\n250-SIZE 1000\n250-8BITMIME\n250 STARTTLS';
    assert.equal(await client.ask('EHLO clear.example'), reply);
    assert.match(await client.ask('AUTH PLAIN AAAA'), /^538 5\.7\.11 /);
    await client.startTls();
    assert.equal(await client.ask('EHLO tls.example'), '250-far.example\n250-SIZE 1000\n250 8BITMIME');
    assert.equal(await client.ask('AUTH PLAIN AAAA'), '502 5.5.1 AUTH not available here');
    assert.match(await client.ask('STARTTLS'), /^503 5\.5\.1 /);
  });

  it('uses the connection from before STARTTLS in TLS', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair });
    const client = await connectTls(t, server);
    await client.ask('MAIL FROM:<a@b>');
    assert.deepEqual(received(far), ['EHLO clear.example\r\nMAIL FROM:<a@b>\r\n']);
  });

  it('uses another connection in TLS with --fresh', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair }, '--fresh');
    const client = await connectTls(t, server);
    await client.ask('MAIL FROM:<a@b>');
    const all = ['EHLO clear.example\r\nQUIT\r\n', 'EHLO tls.example\r\nMAIL FROM:<a@b>\r\n'];
    await until('the first has QUIT', () => received(far)[0] === all[0]);
    assert.deepEqual(received(far), all);
  });

  it('works with TLS from the first byte', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair }, '--implicit-tls');
    const client = await connectTo(t, server);
    await client.shakeHands();
    assert.equal(await client.reply(), '220 relay.example ESMTP');
    assert.equal(await client.ask('EHLO me'), '250-far.example\n250 PIPELINING');
    assert.equal(await sendMail(client), undefined);
    assert.equal(far.connections[0]?.delivered, 'in TLS');
  });

  it('ends the connection with QUIT when the client leaves without mail', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair });
    const client = await connectTls(t, server);
    client.destroy();
    await until('the server has QUIT', () => received(far)[0] === 'EHLO clear.example\r\nQUIT\r\n');
    await until('the connection is closed', () => isClosed(far));
  });

  it('on demand, needs no connection before MAIL, and has the last name of the client', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair }, '--on-demand');
    assert.deepEqual(received(far), ['EHLO [127.0.0.1]\r\nQUIT\r\n']);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 relay.example ESMTP');
    assert.equal(await client.ask('EHLO clear.example'), '250-far.example\n250-PIPELINING\n250 STARTTLS');
    await client.startTls();
    assert.equal(await client.ask('EHLO tls.example'), '250-far.example\n250 PIPELINING');
    assert.equal(far.connections.length, 1);
    assert.equal(await client.ask('MAIL FROM:<a@b>'), '250 ok');
    assert.equal(received(far)[1], 'EHLO tls.example\r\nMAIL FROM:<a@b>\r\n');
    const probe = await connectTls(t, server);
    await probe.ask('QUIT');
    probe.end();
    await server.logs(/event=end .*smtpd=none/);
    assert.equal(far.connections.length, 2);
  });

  it('on demand, waits for one of --smtpds', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair }, '--on-demand', '--smtpds', '1');
    const [one, other] = [await connectTls(t, server), await connectTls(t, server)];
    await one.ask('MAIL FROM:<a@b>');
    other.sendLines('MAIL FROM:<c@d>');
    // Its reply comes after the other session has ended.
    await one.ask('QUIT');
    one.end();
    assert.equal(await other.reply(), '250 ok');
    assert.equal(far.connections.length, 3);
  });

  it('passes on what is pipelined', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair });
    const client = await connectTo(t, server);
    const mail = ['MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA', 'Hi.', '.', 'QUIT'];
    client.sendLines('EHLO me', ...mail);
    client.end();
    const codes = (await client.rest()).match(/^\d{3} /gm);
    assert.deepEqual(codes, ['220 ', '250 ', '250 ', '250 ', '354 ', '250 ', '221 ']);
    assert.deepEqual(received(far), [`EHLO me\r\n${mail.join('\r\n')}\r\n`]);
  });

  it('begins each connection with the addresses of the client', async (t) => {
    const { far, server } = await startBoth(t, 'smtp', {}, '--send-proxy', 'v1');
    const client = await connectTo(t, server);
    await client.reply();
    await client.ask('EHLO me');
    assert.match(received(far)[0] ?? '', /^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\nEHLO /);
  });

  for (const option of ['--fresh', '--on-demand']) {
    it(`describes TLS with the client in that header, with ${option}`, async (t) => {
      const { far, server } = await startBoth(t, 'smtp', {}, option, '--send-proxy', 'v2');
      const client = await connectTls(t, server);
      client.sendLines('MAIL FROM:<a@b>');
      await until('there is a header', () =>
        (far.connections[1]?.cleartext ?? '').includes('EHLO tls.example'),
      );
      assert.doesNotMatch(far.connections[0]?.cleartext ?? '', /TLSv1\.3/);
      assert.match(far.connections[1]?.cleartext ?? '', /^\r\n\r\n\0\r\nQUIT\n.*TLSv1\.3/s);
    });
  }

  it('has lines about TLS with the server in the log', async (t) => {
    const { far, server } = await startBoth(t, 'smtp+tls', { pair });
    await sendMessage(await connectTo(t, server));
    const url = `smtp\\+tls://localhost:${far.port}`;
    const text = `text="TLS with localhost:${far.port}: TLSv1\\.3 TLS_\\w+, verified"`;
    await server.logs(
      new RegExp(`: info: event=relay id=\\S+ remote=127\\.0\\.0\\.1:\\d+ smtpd=${url} ${text}\n`),
    );
    const untrusting = await startTo(t, `smtp+tls://localhost:${far.port}`, [], {
      RELAY_CAFILE: ofNobody.certFile,
      CAFILE: authority.certFile,
    });
    await sendMessage(await connectTo(t, untrusting));
    await untrusting.logs(/: info: event=relay id=.*, not verified: UNABLE_TO_/);
  });

  it('shows the server the certificate of RELAY_CERTFILE', async (t) => {
    const far = await startFarServer(t, { pair, implicit: true, authority: authority.certFile });
    const shown = certificates.signedBy(authority, 'client.example');
    const server = await startTo(t, `smtps://localhost:${far.port}`, [], {
      ...TRUST,
      RELAY_CERTFILE: shown.certFile,
      RELAY_KEYFILE: shown.keyFile,
    });
    assert.equal(await sendMessage(await connectTo(t, server)), undefined);
    assert.equal(far.connections[0]?.clientName, 'client.example');
  });
});

describe('a server by URL that cannot be had', { concurrency: 3, timeout: 60_000 }, () => {
  it('is a reply with its name, and lines in the log; the client can send QUIT', async (t) => {
    const port = await closedPort();
    const server = await startTo(t, `tls://localhost:${port}`);
    const client = await connectTo(t, server);
    await client.reply();
    const refusal = `451 4.4.1 localhost:${port}: cannot connect: ECONNREFUSED`;
    assert.equal(await client.ask('EHLO me'), refusal);
    assert.equal(await client.ask('HELO me'), refusal);
    assert.match(await client.ask('QUIT'), /^221 /);
    assert.equal(await client.rest(), '');
    client.end();
    const from = `id=\\S+ remote=\\S+`;
    const why = `text="unable to relay to localhost:${port}: cannot connect: ECONNREFUSED"`;
    await server.logs(new RegExp(`: warning: event=relay ${from} smtpd=tls://localhost:${port} ${why}\n`));
    await server.logs(
      new RegExp(`event=end ${from} verdict=plaintext smtpd=tls://localhost:${port} status=111 `),
    );
    assert.equal(server.stderr().match(/event=relay/g)?.length, 1);
  });

  it('is the reply in TLS too, where it was reached in vain before', async (t) => {
    const { server } = await startBoth(t, 'tls', {});
    const client = await connectTls(t, server);
    assert.match(await client.ask('MAIL FROM:<a@b>'), /^451 4\.7\.4 localhost:\d+: STARTTLS is not offered$/);
    assert.match(await client.ask('QUIT'), /^221 /);
  });

  it('is the reply to EHLO, on demand, if it was never there', async (t) => {
    const url = `tls://localhost:${await closedPort()}`;
    const server = await startTo(t, url, ['--on-demand']);
    await server.logs(/event=introduction text="unable to learn .*: it refused HELO: 451 /);
    assert.match(server.stderr(), new RegExp(`event=relay smtpd=${url} text="unable to relay to `));
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 relay.example ESMTP');
    assert.match(await client.ask('EHLO me'), /^451 4\.4\.1 localhost:/);
  });

  it('is the reply to MAIL, on demand, if it was there before', async (t) => {
    let isFirst = true;
    const replies = {
      get greeting(): string {
        const greeting = isFirst ? '220 far.example' : '554 5.3.2 no service';
        isFirst = false;
        return greeting;
      },
    };
    const { server } = await startBoth(t, 'smtps', { pair, implicit: true, replies }, '--on-demand');
    const client = await connectTls(t, server);
    assert.match(
      await client.ask('MAIL FROM:<a@b>'),
      /^554 5\.3\.2 localhost:\d+: it refused service: 554 5\.3\.2 no service$/,
    );
    assert.match(await client.ask('QUIT'), /^221 /);
    client.end();
    await server.logs(/event=end .* verdict=tls smtpd=smtps:\S+ status=111 /);
  });

  for (const how of ['in cleartext', 'in TLS', 'on demand']) {
    it(`because it sends nothing, is a reply before the idle timeout, for a client ${how}`, async (t) => {
      let count = 0;
      const replies = {
        get greeting(): string {
          count += 1;
          // The introduction is learned from the first connection.
          return how === 'on demand' && count === 1 ? '220 far.example' : '220-far.example';
        },
      };
      const { far, server } = await startBoth(t, 'smtp', { replies }, '-t', '2', ...optionsOf(how));
      const client = await connectTo(t, server);
      await client.reply();
      if (how === 'in TLS') await client.startTls();
      else if (how === 'on demand') await client.ask('EHLO me');
      const reply = await client.ask(how === 'on demand' ? 'MAIL FROM:<a@b>' : 'EHLO me');
      assert.match(reply, /^451 4\.4\.2 localhost:\d+: no reply in time$/);
      assert.match(await client.ask('QUIT'), /^221 /);
      await until('the connection is closed', () => isClosed(far));
    });
  }

  it('is not tried in cleartext when the time has passed in a handshake', async (t) => {
    // It does not reply to a handshake.
    const { far, server } = await startBoth(t, 'smtp+tls', { pair, breaksHandshake: '' }, '-t', '2');
    const client = await connectTo(t, server);
    await client.reply();
    assert.match(await client.ask('EHLO me'), /^451 4\.7\.5 localhost:\d+: TLS handshake failed: [^;]*$/);
    assert.equal(far.connections.length, 1);
    assert.doesNotMatch(server.stderr(), /in cleartext/);
  });

  it('is given up in time when the client has left in cleartext', async (t) => {
    const replies = { greeting: '220-far.example' };
    const { far, server } = await startBoth(t, 'smtp', { replies }, '-t', '2');
    const client = await connectTo(t, server);
    await client.reply();
    client.sendLines('EHLO me');
    await connected(far, 1);
    client.destroy();
    await server.logs(/event=end /);
    await until('the connection is closed', () => isClosed(far));
  });

  it('is given up when the client resets its connection in TLS, without a warning', async (t) => {
    const { far, server } = await startBoth(t, 'smtp', { replies: { greeting: '220-far.example' } });
    const client = await connectTo(t, server);
    await client.reply();
    await client.startTls();
    client.sendLines('EHLO me');
    await connected(far, 1);
    client.tcp().resetAndDestroy();
    await server.logs(/event=end /);
    await until('the connection is closed', () => isClosed(far));
    assert.doesNotMatch(server.stderr(), /unable to relay/);
  });

  for (const secure of [false, true]) {
    it(`is given up when the server is stopped, with a client in ${secure ? 'TLS' : 'cleartext'}`, async (t) => {
      const replies = { greeting: '220-far.example' };
      const { far, server } = await startBoth(t, 'smtp', { replies }, '--grace', '0');
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      client.sendLines('EHLO me');
      await connected(far, 1);
      server.signal('SIGTERM');
      assert.match(await client.reply(), /^421 4\.3\.2 /);
      client.end();
      assert.equal((await server.ended).code, 0);
      await until('the connection is closed', () => isClosed(far));
      assert.doesNotMatch(server.stderr(), /unable to relay/);
    });
  }
});

describe('what clients cause without mail', { timeout: 60_000 }, () => {
  it('is logged ten times a second at most', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair });
    while (!server.stderr().includes('suppressed=')) {
      const client = await connectTo(t, server);
      await client.reply();
      assert.match(await client.ask('GET / HTTP/1.1'), /^421 4\.7\.0 /);
      client.destroy();
    }
    assert.match(server.stderr(), / smtpd=tls:\S+ text="[^"]*HTTP[^"]*" suppressed=\d+\n/);
    assert.equal(far.connections.length, 0);
  });

  it('counts once as the error limit, in the dialogue and in TLS', async (t) => {
    const server = await startTo(t, `tls://localhost:${await closedPort()}`, ['--error-limit', '2']);
    for (const secure of [false, true]) {
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      client.sendLines('EHLO me', 'EHLO me');
      client.end();
      const codes = (await client.rest()).match(/^\d{3} /gm);
      assert.deepEqual(codes, ['451 ', '451 ', '421 ']);
    }
    server.signal('SIGUSR1');
    await server.logs(/event=counters .* error_limit_reached=2 .* relay_failures=2 /);
    assert.equal(server.stderr().match(/event=error-limit/g)?.length, 2);
  });
});

describe('a server that is stopped with a session by URL', { timeout: 60_000 }, () => {
  it('waits for --grace, then ends it', async (t) => {
    const { far, server } = await startBoth(t, 'tls', { pair }, '--grace', '1');
    const client = await connectTls(t, server);
    await client.ask('MAIL FROM:<a@b>');
    server.signal('SIGTERM');
    assert.equal(await client.ask('RCPT TO:<c@d>'), '250 ok');
    assert.match(await client.reply(), /^421 4\.3\.2 /);
    client.end();
    assert.equal((await server.ended).code, 0);
    await until('the connection is closed', () => isClosed(far));
  });
});
