/** smtpd-maildir as a process: what is in the Maildir when it has ended. */

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
  it('what comes in one piece through real pipes', (t) => {
    const maildir = newMaildir(t);
    const session = [...TO_DATA, 'Subject: x', '', 'hello', '..', 'one\n.\ntwo', '.', 'QUIT', ''].join(
      '\r\n',
    );
    const said = execFileSync('sh', ['-c', 'cat | "$0" "$1" | cat', ours('smtpd-maildir'), maildir], {
      input: session,
      encoding: 'latin1',
    });
    assert.match(said, /^220 .*\r\n(?:.*\r\n)*354 .*\r\n250 2\.0\.0 .*\r\n221 2\.0\.0 .*\r\n$/);
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

  it('for the owner alone, with all that was missing of the Maildir', async (t) => {
    const maildir = join(newMaildir(t), 'deep/er');
    const server = startServer(t, { args: [maildir] });
    server.say(...TO_DATA, '.', 'QUIT');
    assert.equal(await server.ended, 0);
    const [name = ''] = filesIn(maildir, 'new');
    assert.match(name, new RegExp(`^\\d{10}\\.M\\d{1,6}P${server.pid}Q1\\.`));
    assert.ok(name.endsWith(`.${hostname()}`));
    assert.equal(statSync(join(maildir, 'new', name)).mode & 0o777, 0o600);
    for (const part of ['', 'tmp', 'new', 'cur']) {
      assert.equal(statSync(join(maildir, part)).mode & 0o777, 0o700);
    }
  });

  it('with the lines that tell where it came from', async (t) => {
    const maildir = newMaildir(t);
    const environment = {
      TCPREMOTEIP: '192.0.2.1',
      TCPREMOTEHOST: 'client.example',
      SSL_PROTOCOL: 'TLSv1.3',
      SSL_CIPHER: 'TLS_AES_256_GCM_SHA384',
    };
    const server = startServer(t, { args: [maildir], environment });
    server.say(...TO_DATA, 'hello', '.', 'QUIT');
    assert.equal(await server.ended, 0);
    const [message = ''] = messagesIn(maildir);
    const [first, second, ...received] = message.split('\n');
    assert.deepEqual([first, second], ['Return-Path: <a@b>', 'Delivered-To: c@d']);
    const date = '\\w{3}, \\d\\d \\w{3} \\d{4} \\d\\d:\\d\\d:\\d\\d \\+0000';
    const pattern = `^Received: from me \\(client\\.example \\[192\\.0\\.2\\.1\\]\\) by \\S+ with ESMTPS \\(TLSv1\\.3 TLS_AES_256_GCM_SHA384\\) id \\S+ for <c@d>; ${date} hello $`;
    assert.match(received.join(' ').replaceAll(/ +/g, ' '), new RegExp(pattern));
  });

  it('several messages in one session', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    const more = [...TO_DATA.slice(1), 'two', '.'];
    server.say(...TO_DATA, 'one', '.', ...more, ...more, 'QUIT');
    assert.equal(await server.ended, 0);
    assert.deepEqual(textsIn(maildir), ['one\n', 'two\n', 'two\n']);
  });
});

describe('smtpd-maildir leaves nothing of a message', () => {
  it('when the client hangs up in the middle of it', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    server.say(...TO_DATA, 'half');
    await server.hears(/^354 /m);
    assert.equal(filesIn(maildir, 'tmp').length, 1);
    server.process.stdin?.end();
    assert.equal(await server.ended, 1);
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  it('when nobody hears the replies', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    await server.hears(/^220 /m);
    server.process.stdout?.destroy();
    server.say(...TO_DATA, 'half');
    assert.equal(await server.ended, 1);
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    it(`when it is ended by ${signal}`, async (t) => {
      const maildir = newMaildir(t);
      const server = startServer(t, { args: [maildir] });
      server.say(...TO_DATA, 'half');
      await server.hears(/^354 /m);
      server.process.kill(signal);
      await server.hears(/^421 4\.3\.2 .*\r\n/m);
      assert.equal(await server.ended, { SIGTERM: 143, SIGINT: 130, SIGHUP: 129 }[signal]);
      assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
    });
  }

  it('when it is larger than DATABYTES, whatever --size says', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-s', '1', maildir], environment: { DATABYTES: '100' } });
    server.say(...TO_DATA, ...Array.from({ length: 11 }, () => 'eight...'), '.');
    await server.hears(/^250-SIZE 100\r\n(?:.*\r\n)*552 5\.3\.4 /m);
    server.say(...TO_DATA.slice(1), 'small', '.', 'QUIT');
    assert.equal(await server.ended, 0);
    assert.deepEqual(filesIn(maildir, 'tmp'), []);
    assert.deepEqual(textsIn(maildir), ['small\n']);
  });

  it('when there is no room on the disk', async (t) => {
    const maildir = newMaildir(t);
    // Blocks of 512 or 1024 octets, as the shell has it.
    const server = startServer(t, { args: [maildir], script: 'ulimit -f 16; exec "$@"' });
    server.say(...TO_DATA, ...Array.from({ length: 2000 }, () => 'x'.repeat(70)), '.');
    await server.hears(/^451 4\.3\.0 /m);
    server.say(...TO_DATA.slice(1), 'small', '.', 'QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: EFBIG\n');
    assert.deepEqual(filesIn(maildir, 'tmp'), []);
    assert.deepEqual(textsIn(maildir), ['small\n']);
  });

  it('when there is no room on the disk for the last octets', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir], script: 'ulimit -f 1; exec "$@"' });
    // One piece, so that the one write ends short, as with a disk that is full in the middle of it.
    server.say(...TO_DATA);
    await server.hears(/^354 /m);
    server.say('x'.repeat(2000), '.');
    await server.hears(/^451 4\.3\.0 /m);
    server.say('QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: EFBIG\n');
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  // Not by permissions, because the tests may be run by root.
  for (const part of ['tmp', 'new'] as const) {
    it(`when ${part}/ is no directory`, async (t) => {
      const maildir = newMaildir(t);
      const server = startServer(t, { args: [maildir] });
      await server.hears(/^220 /m);
      rmSync(join(maildir, part), { recursive: true });
      writeFileSync(join(maildir, part), '');
      server.say(...TO_DATA);
      if (part === 'new') server.say('hello', '.');
      await server.hears(/^451 4\.3\.0 /m);
      rmSync(join(maildir, part));
      mkdirSync(join(maildir, part));
      server.say(...TO_DATA, 'hello', '.', 'QUIT');
      assert.equal(await server.ended, 0);
      assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: ENOTDIR\n');
      assert.deepEqual(filesIn(maildir, 'tmp'), []);
      assert.deepEqual(textsIn(maildir), ['hello\n']);
    });
  }
});
