/** smtpd-maildir as a process: the contents of the Maildir when it has exited. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ours } from '../support/programs.ts';
import { filesIn, messagesIn, newMaildir, startServer, TO_DATA, textsIn } from './server.ts';

describe('smtpd-maildir delivers', () => {
  it('a session in one piece through pipes', (t) => {
    const maildir = newMaildir(t);
    const session = [...TO_DATA, 'Subject: x', '', 'hello', '..', 'one\n.\ntwo', '.', 'QUIT', ''].join(
      '\r\n',
    );
    const output = execFileSync('sh', ['-c', 'cat | "$0" "$1" | cat', ours('smtpd-maildir'), maildir], {
      input: session,
      encoding: 'latin1',
    });
    assert.match(output, /^220 .*\r\n(?:.*\r\n)*354 .*\r\n250 2\.0\.0 .*\r\n221 2\.0\.0 .*\r\n$/);
    assert.deepEqual(textsIn(maildir), ['Subject: x\n\nhello\n.\none\n.\ntwo\n']);
    assert.deepEqual(filesIn(maildir, 'tmp'), []);
  });

  it('through a TCP socket', async (t) => {
    const maildir = newMaildir(t);
    const listener = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
    t.after(() => listener.close());
    await once(listener, 'listening');
    const address = listener.address();
    assert.ok(typeof address === 'object' && address !== null);
    const client = connect(address.port, '127.0.0.1');
    const [connection] = (await once(listener, 'connection')) as [Socket];
    const server = startServer(t, { args: [maildir], connection });
    connection.destroy();
    client.write([...TO_DATA, 'hello', '.', 'QUIT', ''].join('\r\n'));
    client.resume();
    await once(client, 'end');
    assert.equal(await server.ended, 0);
    assert.deepEqual(textsIn(maildir), ['hello\n']);
  });

  it('to a Maildir that it creates, accessible only by the owner', async (t) => {
    const maildir = join(newMaildir(t), 'deep/er');
    const server = startServer(t, { args: [maildir] });
    server.send(...TO_DATA, '.', 'QUIT');
    assert.equal(await server.ended, 0);
    const [name = ''] = filesIn(maildir, 'new');
    assert.match(name, new RegExp(`^\\d{10}\\.M\\d{1,6}P${server.pid}Q1\\.`));
    assert.ok(name.endsWith(`.${hostname()}`));
    assert.equal(statSync(join(maildir, 'new', name)).mode & 0o777, 0o600);
    for (const part of ['', 'tmp', 'new', 'cur']) {
      assert.equal(statSync(join(maildir, part)).mode & 0o777, 0o700);
    }
  });

  it('with trace header fields', async (t) => {
    const maildir = newMaildir(t);
    const environment = {
      TCPREMOTEIP: '192.0.2.1',
      TCPREMOTEHOST: 'client.example',
      SSL_PROTOCOL: 'TLSv1.3',
      SSL_CIPHER: 'TLS_AES_256_GCM_SHA384',
    };
    const server = startServer(t, { args: [maildir], environment });
    server.send(...TO_DATA, 'hello', '.', 'QUIT');
    assert.equal(await server.ended, 0);
    const [message = ''] = messagesIn(maildir);
    const [first, second, ...received] = message.split('\n');
    assert.deepEqual([first, second], ['Return-Path: <a@b>', 'Delivered-To: c@d']);
    const date = '\\w{3}, \\d\\d \\w{3} \\d{4} \\d\\d:\\d\\d:\\d\\d \\+0000';
    const pattern = `^Received: from me \\(client\\.example \\[192\\.0\\.2\\.1\\]\\) by \\S+ with ESMTPS \\(TLSv1\\.3 TLS_AES_256_GCM_SHA384\\) id \\S+ for <c@d> tls TLS_AES_256_GCM_SHA384; ${date} hello $`;
    assert.match(received.join(' ').replaceAll(/ +/g, ' '), new RegExp(pattern));
  });

  it('several messages in one session', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    const more = [...TO_DATA.slice(1), 'two', '.'];
    server.send(...TO_DATA, 'one', '.', ...more, ...more, 'QUIT');
    assert.equal(await server.ended, 0);
    assert.deepEqual(textsIn(maildir), ['one\n', 'two\n', 'two\n']);
  });
});

describe('smtpd-maildir leaves no file of a message', () => {
  it('when the client half-closes in the middle of it', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    server.send(...TO_DATA, 'half');
    await server.waitFor(/^354 /m);
    assert.equal(filesIn(maildir, 'tmp').length, 1);
    server.process.stdin?.end();
    assert.equal(await server.ended, 1);
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  it('when the client has closed its reading side', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    await server.waitFor(/^220 /m);
    server.process.stdout?.destroy();
    server.send(...TO_DATA, 'half');
    assert.equal(await server.ended, 1);
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    it(`on ${signal}`, async (t) => {
      const maildir = newMaildir(t);
      const server = startServer(t, { args: [maildir] });
      server.send(...TO_DATA, 'half');
      await server.waitFor(/^354 /m);
      server.process.kill(signal);
      await server.waitFor(/^421 4\.3\.2 .*\r\n/m);
      assert.equal(await server.ended, { SIGTERM: 143, SIGINT: 130, SIGHUP: 129 }[signal]);
      assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
    });
  }

  it('that is larger than DATABYTES, which overrides --size', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-s', '1', maildir], environment: { DATABYTES: '100' } });
    server.send(...TO_DATA, ...Array.from({ length: 11 }, () => 'eight...'), '.');
    await server.waitFor(/^250-SIZE 100\r\n(?:.*\r\n)*552 5\.3\.4 /m);
    server.send(...TO_DATA.slice(1), 'small', '.', 'QUIT');
    assert.equal(await server.ended, 0);
    assert.deepEqual(filesIn(maildir, 'tmp'), []);
    assert.deepEqual(textsIn(maildir), ['small\n']);
  });

  it('when the disk is full', async (t) => {
    const maildir = newMaildir(t);
    // Blocks of 512 or 1024 octets, depending on the shell.
    const server = startServer(t, { args: [maildir], script: 'ulimit -f 16; exec "$@"' });
    server.send(...TO_DATA, ...Array.from({ length: 2000 }, () => 'x'.repeat(70)), '.');
    await server.waitFor(/^451 4\.3\.0 /m);
    server.send(...TO_DATA.slice(1), 'small', '.', 'QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: EFBIG\n');
    assert.deepEqual(filesIn(maildir, 'tmp'), []);
    assert.deepEqual(textsIn(maildir), ['small\n']);
  });

  it('when the disk is full during the last write', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir], script: 'ulimit -f 1; exec "$@"' });
    // In one piece, so that the only write of text is cut short by the limit.
    server.send(...TO_DATA);
    await server.waitFor(/^354 /m);
    server.send('x'.repeat(2000), '.');
    await server.waitFor(/^451 4\.3\.0 /m);
    server.send('QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: EFBIG\n');
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  // Not by permissions, because the tests may run as root.
  for (const part of ['tmp', 'new'] as const) {
    it(`when ${part}/ is not a directory`, async (t) => {
      const maildir = newMaildir(t);
      const server = startServer(t, { args: [maildir] });
      await server.waitFor(/^220 /m);
      rmSync(join(maildir, part), { recursive: true });
      writeFileSync(join(maildir, part), '');
      server.send(...TO_DATA);
      if (part === 'new') server.send('hello', '.');
      await server.waitFor(/^451 4\.3\.0 /m);
      rmSync(join(maildir, part));
      mkdirSync(join(maildir, part));
      server.send(...TO_DATA, 'hello', '.', 'QUIT');
      assert.equal(await server.ended, 0);
      assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: ENOTDIR\n');
      assert.deepEqual(filesIn(maildir, 'tmp'), []);
      assert.deepEqual(textsIn(maildir), ['hello\n']);
    });
  }
});
