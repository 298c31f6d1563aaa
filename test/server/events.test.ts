/** What the server logs on stderr, and what it never logs. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { fixture } from '../support/programs.ts';
import { passingSmtpd, type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';

const REMOTE = String.raw`remote=127\.0\.0\.1:\d+`;
const ID = String.raw`id=(\d+-\d+)`;

/** What must not appear in any line: parts of an envelope, of a message, and of credentials. */
const SECRETS = [
  'alice-sender',
  'bob-recipient',
  'the-subject',
  'the-body',
  'client.name.example',
  's3cret',
  Buffer.from('\0user\0s3cret-password').toString('base64'),
];

/** Starts a server that is stopped when the test ends. */
async function start(t: TestContext, ...options: string[]): Promise<RunningServer> {
  const server = await startServer(options, fixture('smtpd-script'));
  t.after(() => server.close());
  return server;
}

/** Sends a message, logged in. */
async function sendMail(port: number, how: 'tls' | 'plaintext'): Promise<void> {
  const [sender, recipient, subject, body, name, , login] = SECRETS;
  const client = await connectSmtp(port);
  await client.reply();
  await client.ask(`EHLO ${name}`);
  if (how === 'tls') await client.startTls();
  assert.match(await client.ask(`AUTH PLAIN ${login}`), /^235 /);
  assert.match(await client.ask(`MAIL FROM:<${sender}@example.org>`), /^250 /);
  assert.match(await client.ask(`RCPT TO:<${recipient}@example.org>`), /^250 /);
  assert.match(await client.ask('DATA'), /^354 /);
  assert.match(await client.ask(`Subject: ${subject}\r\n\r\n${body} s3cret\r\n.`), /^250 /);
  assert.match(await client.ask('QUIT'), /^221 /);
  client.destroy();
}

/** Stops the server, and gives all that it has logged. */
async function linesOf(server: RunningServer): Promise<string[]> {
  server.signal('SIGTERM');
  await server.ended;
  const stderr = server.stderr();
  assert.ok(stderr === '' || stderr.endsWith('\n'), stderr);
  return stderr.split('\n').slice(0, -1);
}

function assertNoSecret(lines: readonly string[]): void {
  for (const line of lines) for (const secret of SECRETS) assert.ok(!line.includes(secret), line);
}

describe('a session with TLS', { concurrency: 2 }, () => {
  for (const options of [['-q'], ['-v', '0'], [], ['--verbosity', '1']]) {
    it(`has no line at level ${options.join(' ') || 'default'}`, async (t) => {
      const server = await start(t, ...options);
      await sendMail(server.port, 'tls');
      assert.deepEqual(await linesOf(server), []);
    });
  }

  for (const options of [['-v2'], ['--verbosity', '2']]) {
    it(`has a line for TLS and one for its end at level ${options.join(' ')}`, async (t) => {
      const server = await start(t, ...options);
      await sendMail(server.port, 'tls');
      await server.logs(/event=end /);
      const [listening, tls, end, stopping, ...more] = await linesOf(server);
      assert.match(
        listening ?? '',
        new RegExp(`^smtpd-starttls-server: info: event=listening on=127.0.0.1:${server.port}$`),
      );
      assert.match(
        tls ?? '',
        new RegExp(
          `^smtpd-starttls-server: info: event=tls ${ID} ${REMOTE} text="TLSv1\\.3, TLS_[^"]*" resumed=no$`,
        ),
      );
      assert.match(
        end ?? '',
        new RegExp(
          `^smtpd-starttls-server: info: event=end ${ID} ${REMOTE} verdict=tls smtpd=\\d+ status=0 in=\\d+ out=\\d+ seconds=\\d+\\.\\d{3}$`,
        ),
      );
      assert.equal(stopping, 'smtpd-starttls-server: info: event=stopping signal=SIGTERM');
      assert.deepEqual(more, []);
    });
  }

  for (const options of [['-v3'], ['-v', '9'], ['--verbosity', '3']]) {
    it(`has one line per event at level ${options.join(' ')}`, async (t) => {
      const server = await start(t, ...options);
      await sendMail(server.port, 'tls');
      await server.logs(/event=end /);
      const events = (await linesOf(server)).map((line) => /event=(\S+)/.exec(line)?.[1]);
      assert.deepEqual(events, ['listening', 'accepted', 'verdict', 'tls', 'end', 'stopping']);
    });
  }
});

describe('a line', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`of a connection has its id, with ${workers}`, async (t) => {
      const server = await start(t, '-v3', '--plaintext-auth', '--workers', workers);
      const sent = Array.from({ length: 6 }, (_, index) =>
        sendMail(server.port, index % 2 === 0 ? 'tls' : 'plaintext'),
      );
      await Promise.all(sent);
      const lines = await linesOf(server);
      const events = new Map<string, (string | undefined)[]>();
      for (const line of lines) {
        assert.match(
          line,
          /^smtpd-starttls-server: (?:warning|info|debug): event=[\w-]+(?: [\w.-]+=(?:[\w.:/@+-]+|"(?:[^"\\]|\\.)*"))*$/,
        );
        const id = /\bid=(\S+)/.exec(line)?.[1];
        if (id === undefined) assert.doesNotMatch(line, /remote=|verdict|event=(?:tls|end|session|accepted)/);
        else {
          assert.match(line, new RegExp(REMOTE));
          events.set(id, [...(events.get(id) ?? []), /event=(\S+)/.exec(line)?.[1]]);
        }
      }
      const ways = [...events.values()].map((list) => list.join(' ')).toSorted();
      assert.deepEqual(ways, [
        ...Array(3).fill('accepted verdict end'),
        ...Array(3).fill('accepted verdict tls end'),
      ]);
    });
  }

  it('contains nothing of a message or of credentials, at the highest level', async (t) => {
    const server = await start(t, '-v3', '--plaintext-auth');
    await sendMail(server.port, 'tls');
    await sendMail(server.port, 'plaintext');
    const lines = await linesOf(server);
    assert.ok(lines.length > 6);
    assertNoSecret(lines);
  });

  it('contains nothing of them after errors either', async (t) => {
    const [sender, recipient, subject, , name, , login] = SECRETS;
    const server = await start(t, '-v3');
    for (const words of [
      [`EHLO ${name}`, `AUTH PLAIN ${login}`, 'QUIT'],
      [`EHLO ${name}`, `RCPT TO:<${recipient}@example.org>`, 'QUIT'],
      [`STARTTLS ${sender}`, 'QUIT'],
      [`GET /${subject} HTTP/1.1`],
      [`XDO line ${name} is no reply`],
      [`MAIL FROM:<${sender}@example.org>`, 'XDO die SIGKILL'],
    ]) {
      const client = await connectSmtp(server.port);
      await client.reply();
      for (const line of words) await client.ask(line).catch(() => {});
      await client.rest();
      client.destroy();
    }
    // A message in the middle of which the TLS stream is corrupted.
    const client = await connectSmtp(server.port);
    await client.reply();
    assert.match(await client.ask('STARTTLS'), /^220 /);
    client.sendLines(`MAIL FROM:<${sender}@example.org>`);
    await client.rest();
    client.destroy();
    const lines = await linesOf(server);
    assert.ok(
      lines.some((line) => line.includes('unable to start TLS')),
      lines.join('\n'),
    );
    assert.equal(lines.filter((line) => line.includes('event=end')).length, 7);
    assertNoSecret(lines);
  });
});

describe('a server that can no longer start smtpd', { concurrency: 2 }, () => {
  it('logs that as a warning for each client, and continues', async (t) => {
    const smtpd = passingSmtpd(t);
    const server = await startServer([], [smtpd.path]);
    t.after(() => server.close());
    smtpd.remove();
    for (let count = 1; count <= 2; count++) {
      const client = await connectSmtp(server.port);
      assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\r\n$/);
      client.destroy();
    }
    const lines = await linesOf(server);
    assert.equal(lines.length, 2);
    for (const line of lines) {
      assert.match(
        line,
        new RegExp(
          `^smtpd-starttls-server: warning: event=session ${ID} ${REMOTE} smtpd=none text="cannot run ${smtpd.path}: ENOENT \\(no such program: .+\\)"$`,
        ),
      );
    }
  });
});
