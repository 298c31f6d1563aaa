/** smtp-relay-io --routes: which server gets which transaction, and what the client sees of that. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { startDnsmasq } from '../support/dns.ts';
import { type FarServer, type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { isGone, until } from '../support/processes.ts';
import { fixture, missing, ours } from '../support/programs.ts';
import { type Relay, startRelay } from '../support/relay.ts';
import { closedPort, silentPort } from '../support/tcp.ts';

const folder = mkdtempSync(join(tmpdir(), 'routes-'));
const certificates = makeCertificates();
after(() => {
  rmSync(folder, { recursive: true });
  certificates.remove();
});
let count = 0;

/** Writes a file of routes. */
function routesFile(lines: readonly string[]): string {
  count += 1;
  const path = join(folder, `routes-${count}`);
  writeFileSync(path, `${lines.join('\n')}\n`);
  return path;
}

/** Starts a relay by routes, and reads the greeting. */
async function startRoutes(
  t: TestContext,
  lines: readonly string[],
  words: readonly string[] = [],
  environment: NodeJS.ProcessEnv = {},
): Promise<Relay> {
  const all = ['-l', 'relay.example', ...words, '--routes', routesFile(lines)];
  const relay = startRelay(t, all, environment);
  assert.equal(await relay.reply(), '220 relay.example ESMTP');
  return relay;
}

/** Starts a server; `route` is a route to it. */
async function startServer(
  t: TestContext,
  pattern: string,
  options: FarServerOptions = {},
): Promise<FarServer & { readonly route: string }> {
  const server = await startFarServer(t, options);
  return { ...server, route: `${pattern} smtp://127.0.0.1:${server.port}` };
}

/** What each connection of a server has received. */
function received({ connections }: FarServer): string[] {
  return connections.map(({ cleartext }) => cleartext);
}

/** Sends a message, all at once. @returns the codes of the replies. */
async function sendAll(relay: Relay, sender: string, ...recipients: string[]): Promise<string> {
  const commands = [`MAIL FROM:<${sender}>`, ...recipients.map((each) => `RCPT TO:<${each}>`), 'DATA'];
  relay.send(...commands, 'Hi.', '.');
  const codes: string[] = [];
  for (let replies = commands.length + 1; replies > 0; replies--)
    codes.push((await relay.reply()).slice(0, 3));
  return codes.join(' ');
}

async function quit(relay: Relay, status = 0): Promise<void> {
  relay.send('QUIT');
  relay.end();
  assert.match(await relay.rest(), /^221 /);
  assert.equal(await relay.status, status);
}

const HELLO = 'EHLO client.example\r\n';
const MESSAGE = 'DATA\r\nHi.\r\n.\r\n';

describe('routes by sender', () => {
  it('lead each transaction to its server, in one session', async (t) => {
    const a = await startServer(t, '@a.example');
    const b = await startServer(t, '@b.example');
    const relay = await startRoutes(t, [a.route, b.route]);
    assert.equal(await relay.ask('EHLO client.example'), '250-relay.example\n250-PIPELINING\n250 8BITMIME');
    assert.deepEqual([a.connections.length, b.connections.length], [0, 0]);
    const envelope = (sender: string): string =>
      `MAIL FROM:<${sender}>\r\nRCPT TO:<x@y.example>\r\n${MESSAGE}`;
    for (const sender of ['me@a.example', 'me@b.example', 'you@b.example', 'you@a.example']) {
      assert.equal(await sendAll(relay, sender, 'x@y.example'), '250 250 354 250');
    }
    await quit(relay);
    assert.deepEqual(received(a), [
      `${HELLO}${envelope('me@a.example')}QUIT\r\n`,
      `${HELLO}${envelope('you@a.example')}QUIT\r\n`,
    ]);
    assert.deepEqual(received(b), [
      `${HELLO}${envelope('me@b.example')}${envelope('you@b.example')}QUIT\r\n`,
    ]);
    assert.equal(relay.stderr(), '');
  });

  it('lead to programs too', async (t) => {
    const maildir = join(folder, 'maildir');
    const server = await startServer(t, '@a.example');
    const relay = await startRoutes(t, [server.route, `* |${ours('smtpd-maildir')} ${maildir}`]);
    await relay.ask('EHLO client.example');
    assert.equal(await sendAll(relay, '', 'x@y.example'), '250 250 354 250');
    assert.equal(await sendAll(relay, 'me@a.example', 'x@y.example'), '250 250 354 250');
    await quit(relay);
    assert.equal(readdirSync(join(maildir, 'new')).length, 1);
  });

  it('give a program the addresses of the client, and none of our keys', async (t) => {
    const script = fixture('smtpd-script');
    const relay = await startRoutes(t, [`* |${script.join(' ')} --on=HELP:environment`], [], {
      ...{ TCPREMOTEIP: '192.0.2.7', TCPREMOTEPORT: '4000', TCPLOCALIP: '192.0.2.1', TCPLOCALPORT: '25' },
      ...{ PROTO: 'TCP', CAFILE: certificates.selfSigned('a.example').certFile },
    });
    await relay.ask('MAIL FROM:<a@b.example>');
    const environment = JSON.parse((await relay.ask('HELP')).slice(4));
    assert.equal(environment.TCPREMOTEIP, '192.0.2.7');
    assert.equal(environment.CAFILE, undefined);
    relay.end();
    await relay.status;
  });

  it('refuse a sender without a route, and one whose server cannot be had', async (t) => {
    const port = await closedPort();
    const server = await startServer(t, '@b.example');
    const relay = await startRoutes(t, [`@a.example smtp://127.0.0.1:${port}`, server.route]);
    assert.equal(await relay.ask('MAIL FROM:<me@c.example>'), '550 5.7.1 No route for this address');
    const refusal = `451 4.4.1 127.0.0.1:${port}: cannot connect: ECONNREFUSED`;
    assert.equal(await relay.ask('MAIL FROM:<me@a.example>'), refusal);
    assert.match(await relay.ask('RCPT TO:<x@y.example>'), /^503 /);
    assert.match(await relay.ask('MAIL FROM:<me@b.example>'), /^250 /);
    await quit(relay);
  });

  it('end with 111 when the last server could not be had', async (t) => {
    const relay = await startRoutes(t, [`* smtp://127.0.0.1:${await closedPort()}`]);
    assert.match(await relay.ask('MAIL FROM:<me@a.example>'), /^451 /);
    await quit(relay, 111);
  });

  it('send credentials to their host only', async (t) => {
    const authority = certificates.selfSigned('authority.example');
    const pair = certificates.signedBy(authority, 'localhost');
    const [one, other] = [await startFarServer(t, { pair }), await startFarServer(t, { pair })];
    const credentials = join(folder, 'credentials');
    writeFileSync(credentials, 'localhost alice wonderland\n', { mode: 0o600 });
    const relay = await startRoutes(
      t,
      [`@a.example tls://localhost:${one.port}`, `@b.example smtp+tls://127.0.0.1:${other.port}`],
      ['--credentials', credentials],
      { CAFILE: authority.certFile },
    );
    for (const sender of ['me@a.example', 'me@b.example']) {
      assert.equal(await sendAll(relay, sender, 'x@y.example'), '250 250 354 250');
    }
    await quit(relay);
    const authenticated = [one, other].map((server) =>
      server.connections.map((each) => each.isAuthenticated),
    );
    assert.deepEqual(authenticated, [[true], [false]]);
  });

  it('send one command at a time to a server without PIPELINING', async (t) => {
    const server = await startServer(t, '*', { offers: [], replies: { RCPT: '550 no' } });
    const relay = await startRoutes(t, [server.route]);
    relay.send('MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA');
    relay.end();
    assert.equal((await relay.rest()).replaceAll(/ .*\r\n/g, ' '), '250 550 354 421 ');
    await relay.status;
  });
});

describe('routes by recipient', () => {
  it('defer recipients with another route to transactions of their own', async (t) => {
    const a = await startServer(t, 'to @a.example');
    const b = await startServer(t, 'to @b.example');
    const relay = await startRoutes(t, [a.route, b.route, '@here.example |false']);
    await relay.ask('EHLO client.example');
    const recipients = ['x@a.example', 'x@b.example', 'x@nowhere.example', 'y@a.example'];
    assert.equal(await sendAll(relay, 'me@there.example', ...recipients), '250 250 452 550 250 354 250');
    assert.equal(await sendAll(relay, 'me@there.example', 'x@b.example'), '250 250 354 250');
    await quit(relay);
    const mail = 'MAIL FROM:<me@there.example>\r\n';
    assert.deepEqual(received(a), [
      `${HELLO}${mail}RCPT TO:<x@a.example>\r\nRCPT TO:<y@a.example>\r\n${MESSAGE}QUIT\r\n`,
    ]);
    assert.deepEqual(received(b), [`${HELLO}${mail}RCPT TO:<x@b.example>\r\n${MESSAGE}QUIT\r\n`]);
  });

  it('come before routes by sender', async (t) => {
    const [to, from] = [await startServer(t, 'to @a.example'), await startServer(t, '@a.example')];
    const relay = await startRoutes(t, [from.route, to.route]);
    assert.equal(await sendAll(relay, 'me@a.example', 'x@a.example'), '250 250 354 250');
    assert.equal(await sendAll(relay, 'me@a.example', 'x@b.example'), '250 250 354 250');
    await quit(relay);
    assert.deepEqual([to.connections.length, from.connections.length], [1, 1]);
  });

  it('reply to the recipient when the server refuses MAIL', async (t) => {
    const server = await startServer(t, 'to *', { replies: { MAIL: '552-5.3.4 too\r\n552 5.3.4 large' } });
    const relay = await startRoutes(t, [server.route]);
    assert.match(await relay.ask('MAIL FROM:<me@a.example> SIZE=1000000000'), /^250 /);
    assert.equal(await relay.ask('RCPT TO:<x@b.example>'), '552-5.3.4 too\n552 5.3.4 large');
    assert.match(await relay.ask('DATA'), /^554 /);
    await quit(relay);
  });

  it('end a session with 421 when the server does not reply to MAIL', async (t) => {
    const server = await startServer(t, 'to *', { replies: { MAIL: '250-and' } });
    const relay = await startRoutes(t, [server.route], ['-t', '3']);
    relay.send('MAIL FROM:<me@a.example>', 'RCPT TO:<x@b.example>');
    relay.end();
    assert.match(await relay.rest(), /^250 .*\r\n421 4\.4\.2 .*\r\n$/);
    await relay.status;
  });

  it('send one recipient at a time to LMTP', async (t) => {
    const server = await startFarServer(t, {});
    const relay = await startRoutes(t, [`to * lmtp://127.0.0.1:${server.port}`]);
    assert.equal(await sendAll(relay, '', 'x@a.example', 'y@a.example'), '250 250 452 354 250');
    await quit(relay);
    assert.match(received(server).join(''), /^LHLO relay\.example\r\n/);
  });

  it('lead to preferred MX hosts by backup://, a domain at a time', {
    skip: missing('dnsmasq'),
  }, async (t) => {
    const server = await startFarServer(t, {});
    const resolver = await startDnsmasq(t, [
      ...['a', 'b'].flatMap((name) => [
        `--mx-host=${name}.example,mx.${name}.example,10`,
        `--mx-host=${name}.example,backup.example,20`,
      ]),
      '--address=/mx.a.example/127.0.0.1',
      '--address=/mx.b.example/127.0.0.1',
    ]);
    const relay = await startRoutes(
      t,
      [`to * backup://backup.example:${server.port}`],
      ['--resolver', resolver],
    );
    const recipients = ['x@a.example', 'x@b.example', 'y@A.Example'];
    assert.equal(await sendAll(relay, '', ...recipients), '250 250 452 250 354 250');
    assert.equal(await sendAll(relay, '', 'x@b.example'), '250 250 354 250');
    await relay.ask('MAIL FROM:<>');
    assert.match(await relay.ask('RCPT TO:<x@c.example>'), /^450 4\.4\.4 c\.example: it has no MX records/);
    await quit(relay, 111);
    assert.equal(server.connections.length, 2);
  });
});

describe('a session by routes', () => {
  it('offers what it is told to, under the name that it is given', async (t) => {
    const words = ['--offer', 'SIZE 1000', '--offer', 'dsn', '--greeting', 'mail.example'];
    const relay = startRelay(t, [...words, '-l', 'relay.example', '--routes', routesFile(['* |true'])]);
    assert.equal(await relay.reply(), '220 mail.example ESMTP');
    assert.equal(await relay.ask('EHLO me'), '250-mail.example\n250-SIZE 1000\n250 dsn');
    await quit(relay);
  });

  it('ends with 421 when the client sends nothing', async (t) => {
    const relay = await startRoutes(t, ['* |true'], ['-t', '1']);
    assert.match(await relay.reply(), /^421 4\.4\.2 /);
    relay.end();
    assert.equal(await relay.status, 0);
  });

  it('goes on for longer than the idle timeout while the client sends a message', async (t) => {
    const server = await startServer(t, '*');
    const relay = await startRoutes(t, [server.route], ['-t', '3']);
    for (const command of ['MAIL FROM:<>', 'RCPT TO:<x@y>', 'DATA']) await relay.ask(command);
    relay.send('Hi.');
    await new Promise((resolve) => setTimeout(resolve, 4000));
    assert.equal(await relay.ask('.'), '250 2.0.0 stored');
    await quit(relay);
  });

  it('ends when the client leaves in a chunk, whose rest the server does not get', async (t) => {
    const server = await startServer(t, '*');
    const relay = await startRoutes(t, [server.route]);
    for (const command of ['MAIL FROM:<>', 'RCPT TO:<x@y>']) await relay.ask(command);
    relay.child.stdin?.write('BDAT 8 LAST\r\nHi.');
    await until('the server has it', () => received(server).join('').endsWith('Hi.'));
    relay.child.stdout?.destroy();
    relay.end();
    assert.equal(await relay.status, 0);
    await until('the connection has ended', () => server.connections[0]?.socket.destroyed === true);
    assert.match(received(server).join(''), /BDAT 8 LAST\r\nHi\.$/);
  });

  it('ends at SIGTERM, whatever it waits for', async (t) => {
    const port = await silentPort(t);
    const relay = await startRoutes(t, [`* smtp://127.0.0.1:${port}`]);
    relay.send('MAIL FROM:<>');
    // A reply proves that it is served.
    const waiting = await startRoutes(t, ['* |true']);
    await waiting.ask('NOOP');
    for (const one of [relay, waiting]) {
      one.child.kill('SIGTERM');
      assert.match(await one.reply(), /^421 4\.3\.2 /);
      one.end();
      assert.equal(await one.status, 111);
    }
  });

  it('leaves no program behind, whoever ends the session', async (t) => {
    const pids = join(folder, 'pids');
    mkdirSync(pids);
    const program = join(folder, 'program');
    writeFileSync(
      program,
      `#!/bin/sh\ntouch ${pids}/$$\nprintf '220 hi\\r\\n'\nwhile read line; do printf '250 ok\\r\\n'; done\nexec sleep 1000\n`,
      { mode: 0o755 },
    );
    const relay = await startRoutes(t, [`@a.example |${program} a`, `* |${program} b`]);
    for (const sender of ['me@a.example', 'me@b.example']) {
      assert.equal(await relay.ask(`MAIL FROM:<${sender}>`), '250 ok');
      assert.equal(await relay.ask('RSET'), '250 ok');
    }
    relay.end();
    await relay.status;
    const started = readdirSync(pids).map(Number);
    assert.equal(started.length, 2);
    assert.deepEqual(started.filter(isGone), started);
  });

  it('gets 451 from a program that fails, and its own status does not matter', async (t) => {
    const relay = await startRoutes(t, ['@a.example |false', '* |/nowhere/smtpd']);
    assert.equal(await relay.ask('MAIL FROM:<me@a.example>'), '451 4.4.1 false failed: exit status 1');
    // The reason is for the administrator.
    assert.equal(await relay.ask('MAIL FROM:<>'), '451 4.4.1 /nowhere/smtpd failed: exit status 127');
    await quit(relay, 111);
    const why = 'cannot run /nowhere/smtpd: ENOENT (no such program: check its path';
    assert.ok(relay.stderr().includes(`: /nowhere/smtpd failed: exit status 127: ${why}`), relay.stderr());
  });
});

describe('what is refused at the start', () => {
  const path = routesFile(['* |true']);
  for (const [what, words, message] of [
    ['a URL and routes', ['--routes', path, 'tls://mail.example'], /usage error: unexpected argument: tls:/],
    ['--greeting without routes', ['--greeting', 'a', 'tls://a'], /no effect without --routes/],
    ['--offer without routes', ['--offer', 'SIZE', 'tls://a'], /no effect without --routes/],
    ['an offer of STARTTLS', ['--routes', path, '--offer', 'STARTTLS'], /--offer STARTTLS is not possible/],
    ['an offer of two lines', ['--routes', path, '--offer', 'A\nB'], /--offer takes a keyword of EHLO/],
    ['no such file', ['--routes', '/nowhere'], /fatal: unable to read --routes \/nowhere: ENOENT/],
  ] as const) {
    it(what, async (t) => {
      const relay = startRelay(t, words);
      assert.equal(await relay.status, what === 'no such file' ? 111 : 100);
      assert.match(relay.stderr(), message);
    });
  }

  for (const [line, message] of [
    ['* ftp://a.example', /:2: usage error: unknown scheme "ftp"/],
    ['* tls://a:b@c.example', /:2: usage error: a URL must not contain a user/],
    ['* backup://a.example', /:2: backup:\/\/a\.example is for recipients, write "to"/],
    ['* tls+unix:/run/smtpd', /:2: usage error: tls\+unix:\/run\/smtpd requires --pin/],
    ['* |exim4 -bs', /:2: usage error: exim4 -bs without -oMa/],
    ['nobody tls://a.example', /:2: expected user@domain/],
  ] as const) {
    it(`the route ${line}`, async (t) => {
      const relay = startRelay(t, ['--routes', routesFile(['# routes', line])]);
      assert.equal(await relay.status, 100);
      assert.match(relay.stderr(), message);
    });
  }
});
