/** Sessions without TLS, and how the shim and smtpd end. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { descriptorsOf, isGone, until } from '../support/processes.ts';
import { assertOneLine, runShim, SERVER_NAMES } from '../support/shim.ts';

for (const server of SERVER_NAMES) {
  describe(`under ${server}, in cleartext`, { concurrency: 4 }, () => {
    it('a client that sends HELO has a session', async (t) => {
      const { client, ...run } = await runShim(t, { server });
      await client.reply();
      assert.equal(await client.ask('HELO client'), '250 smtpd-script');
      assert.equal(await client.ask('XDO line 250 anything at all'), '250 anything at all');
      assert.equal(await client.ask('QUIT'), '221 2.0.0 Bye');
      client.end();
      assert.equal(await run.status(), 0);
      await run.allGone();
      assert.equal(run.served.stderr(), '');
    });

    it('a client that sends EHLO and pipelines a mail has a session', async (t) => {
      const { client, ...run } = await runShim(t, { server });
      await client.reply();
      client.sendLines('EHLO client', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA');
      for (const code of ['250', '250', '250', '354']) assert.ok((await client.reply()).startsWith(code));
      client.sendLines('hello', '.', 'QUIT');
      assert.match(await client.rest(), /^250 2\.0\.0 Queued 7\r\n221 2\.0\.0 Bye\r\n$/);
      client.end();
      assert.equal(await run.status(), 0);
      await run.allGone();
    });

    it('the connection ends with smtpd, though the client does not close it', async (t) => {
      const { client, ...run } = await runShim(t, { server });
      await client.reply();
      await client.ask('HELO client');
      client.sendLines('QUIT');
      assert.equal(await client.rest(), '221 2.0.0 Bye\r\n');
      assert.equal(await run.status(), 0);
      await run.allGone();
    });
  });
}

describe('smtpd', { concurrency: 4 }, () => {
  it('determines the exit status of the shim', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    await client.ask('HELO client');
    client.sendLines('XDO exit 37');
    await client.rest();
    client.end();
    assert.equal(await run.status(), 37);
  });

  it('that is killed by a signal: exit status 128 plus the signal, and 421 to the client', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    await client.ask('HELO client');
    client.sendLines('XDO die SIGKILL');
    assert.match(await client.rest(), /^421 4\.3\.0 /);
    client.end();
    assert.equal(await run.status(), 137);
    assertOneLine(run.served.stderr(), /warning: smtpd exited mid-session: killed by SIGKILL$/m);
  });

  it('that is killed in the middle of a line: no line of ours is appended', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    await client.ask('HELO client');
    client.sendLines('XDO write 250-half a li; die SIGKILL');
    assert.equal(await client.rest(), '250-half a li');
    client.end();
    assert.equal(await run.status(), 137);
  });

  it('that is killed in the dialogue: 421 and its exit status', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    assert.match(await client.ask('XDO die SIGABRT'), /^421 4\.3\.0 /);
    client.end();
    assert.equal(await run.status(), 134);
    assertOneLine(run.served.stderr(), /warning: smtpd exited mid-dialogue: killed by SIGABRT$/m);
  });

  const NO_PROGRAM = 'ENOENT (no such program: check its path, PATH, and the interpreter in its first line)';
  const NOT_EXECUTABLE = 'EACCES (not an executable file, or not for this user: namei -l)';
  for (const [what, command, status, why] of [
    ['does not exist', ['/no/such/smtpd'], 127, NO_PROGRAM],
    ['does not exist in PATH', ['no-such-smtpd'], 127, NO_PROGRAM],
    ['is a directory', ['/tmp'], 126, NOT_EXECUTABLE],
    ['is not executable', ['/etc/passwd'], 126, NOT_EXECUTABLE],
    ['has a path through a file', ['/etc/passwd/smtpd'], 126, 'ENOTDIR'],
  ] as const) {
    it(`that ${what}: 421 to the client, one line on stderr, exit status ${status}`, async (t) => {
      const { client, ...run } = await runShim(t, { command });
      assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
      client.end();
      assert.equal(await run.status(), status);
      assert.equal(run.served.stderr(), `smtpd-starttls-proxy-io: fatal: cannot run ${command[0]}: ${why}\n`);
    });
  }

  it('that exits before its greeting: 421, one line on stderr, its own exit status', async (t) => {
    const { client, ...run } = await runShim(t, { smtpd: ['--start=exit 3'] });
    assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
    client.end();
    assert.equal(await run.status(), 3);
    assertOneLine(run.served.stderr(), /warning: smtpd exited before its greeting: exit status 3$/m);
  });

  it('may send a multiline greeting', async (t) => {
    const { client } = await runShim(t, { smtpd: ['--start=line 220-one; line 220-two; line 220 three'] });
    assert.equal(await client.reply(), '220-one\n220-two\n220 three');
    assert.equal(await client.ask('HELP'), '214-Line one\n214 Line two');
  });

  it('inherits none of the shim’s descriptors in a cleartext session, and the shim closes those of UCSPI-TLS', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    const before = openSockets(await run.shim());
    await client.ask('HELO client');
    const after = openSockets(await run.shim());
    // The control socket is closed, upon which s6-ucspitlsd exits.
    assert.equal(before.length - after.length, 1);
  });

  it('that exits before the client reads: its last bytes arrive, and no process is left', async (t) => {
    const { client, ...run } = await runShim(t);
    await client.reply();
    await client.ask('HELO client');
    client.pause();
    client.sendLines('XDO flood 100000; line 421 bye; exit 4');
    const smtpd = await run.smtpd();
    await until('smtpd is gone', () => isGone(smtpd));
    client.resume();
    assert.match(await client.rest(), /\r\n421 bye\r\n$/);
    client.end();
    assert.equal(await run.status(), 4);
  });
});

/** The sockets of a process, except for its standard descriptors. */
function openSockets(pid: number): string[] {
  return [...descriptorsOf(pid)]
    .filter(([fd, target]) => fd > 2 && target.startsWith('socket:'))
    .map(([, target]) => target);
}
