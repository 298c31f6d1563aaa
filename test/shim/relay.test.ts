/** Half-closes and ends in the relay between smtpd and the client. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { unreadOctets } from '../support/kernel.ts';
import { until } from '../support/processes.ts';
import { assertOneLine, runShim, type ShimRun, type ShimSetup } from '../support/shim.ts';
import { DEADLINE, within } from '../support/within.ts';

for (const tls of [false, true]) {
  describe(`in ${tls ? 'TLS' : 'cleartext'}`, { concurrency: 4 }, () => {
    async function open(t: TestContext, setup: ShimSetup = {}): Promise<ShimRun> {
      const run = await runShim(t, setup);
      await run.client.reply();
      await Promise.all([run.shim(), run.smtpd()]);
      if (tls) await run.client.startTls();
      else await run.client.ask('HELO client');
      return run;
    }

    it('an smtpd that closes its output still receives from the client', async (t) => {
      const { client, ...run } = await open(t);
      client.sendLines('XDO line 250 last; close-output; await-end; exit 6');
      assert.equal(await client.rest(), '250 last\r\n');
      client.sendLines('still received');
      await run.hasRead('still received\r\n');
      client.end();
      assert.equal(await run.status(), 6);
      await run.allGone();
    });

    it('an smtpd that closes its input can still send', async (t) => {
      const { client, ...run } = await open(t);
      client.sendLines(
        'XDO close-input; line 250 input closed; await-signal; line 250 still sending; exit 6',
      );
      assert.equal(await client.reply(), '250 input closed');
      client.sendLines('lost', 'lost too');
      await run.release();
      assert.equal(await client.rest(), '250 still sending\r\n');
      client.end();
      assert.equal(await run.status(), 6);
      await run.allGone();
    });

    it('an smtpd that closes its input, then its output, then exits, is waited for', async (t) => {
      const { client, ...run } = await open(t);
      client.sendLines('XDO close-input; line 250 a; close-output; await-signal; exit 6');
      assert.equal(await client.rest(), '250 a\r\n');
      await run.release();
      client.end();
      assert.equal(await run.status(), 6);
      await run.allGone();
    });

    it('an smtpd that closes its output, then its input, then exits, is waited for', async (t) => {
      const { client, ...run } = await open(t);
      client.sendLines('XDO line 250 a; close-output; close-input; await-signal; exit 6');
      assert.equal(await client.rest(), '250 a\r\n');
      client.sendLines('a line that is not read');
      await run.release();
      client.end();
      assert.equal(await run.status(), 6);
      await run.allGone();
    });

    it(`an smtpd that exits ${tls ? 'without output since TLS began leaves the client with a 421' : 'after it has sent output adds no 421'}`, async (t) => {
      const { client, ...run } = await open(t, { smtpd: ['--on=NOOP:exit 0'] });
      client.sendLines('NOOP');
      // In cleartext it has answered HELO in the relay.
      assert.match(await client.rest(), tls ? /^421 4\.3\.0 [^\n]*\n$/ : /^$/);
      client.end();
      assert.equal(await run.status(), 0);
      if (tls) assertOneLine(run.served.stderr(), /smtpd exited mid-session: exit status 0$/m);
      else assert.equal(run.served.stderr(), '');
    });

    it('a client that half-closes in the middle of DATA gets smtpd’s answer', async (t) => {
      const { client, ...run } = await open(t);
      client.sendLines('MAIL FROM:<a@b>', 'DATA', 'half a mail');
      client.end();
      assert.match(await client.rest(), /^250 [^\n]*\n354 [^\n]*\n250 2\.0\.0 Queued cut\r\n$/);
      assert.equal(await run.status(), 0);
      await run.allGone();
    });

    it('a client that still sends to an smtpd that has exited gets its last output, and no reset', async (t) => {
      const { client } = await open(t);
      const closed = new Promise<boolean>((resolve) => client.socket().on('close', resolve));
      client.sendLines('XDO close-input; line 250 last line; exit 0', 'x'.repeat(1_000_000));
      assert.equal(await client.rest(), '250 last line\r\n');
      client.end();
      assert.equal(await within(DEADLINE, 'close of the connection', closed), false, 'it was reset');
    });

    it('bytes of every value arrive unchanged, in both directions', async (t) => {
      const { client, ...run } = await open(t);
      const all = String.fromCharCode(...Array.from({ length: 256 }, (_, code) => code));
      const strange = `${all}\rbare CR\nbare LF\0NUL\r\r\n\n\n.\r\n..\r.\n`;
      client.send(strange);
      await run.hasRead(strange);
      client.sendLines('', 'XDO write 250 \\0bare LF\\nbare CR\\r\\0\\n\\n; exit 0');
      assert.ok((await client.rest()).endsWith('250 \0bare LF\nbare CR\r\0\n\n'));
    });

    it('commands pipelined at once are answered in order', async (t) => {
      const { client, ...run } = await open(t);
      const count = 2000;
      client.sendLines(...Array.from({ length: count }, (_, number) => `XDO line 250 ${number}`), 'QUIT');
      const replies = (await client.rest()).split('\r\n');
      assert.deepEqual(
        replies.slice(0, count),
        Array.from({ length: count }, (_, number) => `250 ${number}`),
      );
      client.end();
      assert.equal(await run.status(), 0);
    });
  });
}

describe('the end of a relay in which the program does not read', () => {
  it('does not corrupt what the program reads afterwards', async (t) => {
    const { client, ...run } = await runShim(t, { options: ['-T', '3'] });
    await client.reply();
    await client.ask('HELO client');
    assert.equal(await client.ask('XDO line 250 waiting; await-signal'), '250 waiting');
    // More than the program's read-ahead, its pipe and the shim's buffer hold: the rest is read during hang-up.
    const sent = Array.from({ length: 100_000 }, (_, number) => `${number}`.padStart(9, '0')).join('\n');
    client.send(sent);
    assert.match(await client.rest(), /^421 4\.4\.2 /);
    await until('the client is read', () => unreadOctets(run.port, run.clientPort) === 0);
    await run.release();
    await run.status();
    const [, read = ''] = /await-signal\r\n(.*)$/s.exec(run.record()) ?? [];
    assert.ok(read.length > 60_000, `${read.length} octets were read`);
    const same = [...read].findIndex((octet, index) => octet !== sent[index]);
    assert.equal(same, -1, `what the program reads differs at octet ${same} of ${read.length}`);
  });
});

describe('where the dialogue ends and the relay begins', { concurrency: 4 }, () => {
  it('neither input after MAIL nor unsolicited output of smtpd is lost', async (t) => {
    const { client, ...run } = await runShim(t, {
      smtpd: ['--on=NOOP:write 250 ok\\r\\n250 unasked\\r\\n250-half a '],
    });
    await client.reply();
    client.sendLines('NOOP', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'XDO line line', 'QUIT');
    assert.match(await client.rest(), /^250 ok\r\n250 unasked\r\n250-half a /);
    assert.equal(run.record(), 'NOOP\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nXDO line line\r\nQUIT\r\n');
  });

  it('an smtpd that closes its output in the dialogue receives the client’s input to its end in the relay', async (t) => {
    // MAIL arrives while the shim still waits for smtpd's exit status.
    const { client, ...run } = await runShim(t, {
      smtpd: ['--on=NOOP:line 250 ok; close-output; await-end; exit 9'],
    });
    await client.reply();
    client.sendLines('NOOP', 'MAIL FROM:<a@b>', 'received');
    await client.rest();
    client.sendLines('received to the end');
    client.end();
    assert.equal(await run.status(), 9);
    await run.allGone();
  });

  it('an smtpd that exits right after its reply to RSET leaves the client with a 421 in TLS', async (t) => {
    const { client, ...run } = await runShim(t, { smtpd: ['--on=RSET:line 250 ok; exit 2'] });
    await client.reply();
    await client.startTls();
    assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
    client.end();
    assert.equal(await run.status(), 2);
    assertOneLine(run.served.stderr(), /smtpd exited mid-session: exit status 2$/m);
  });

  it('an smtpd that exits before the TLS server has answered does not keep the session open', async (t) => {
    const { client, ...run } = await runShim(t, { smtpd: ['--on=RSET:line 250 ok; exit 2'] });
    await client.reply();
    assert.match(await client.ask('STARTTLS'), /^220 /);
    client.destroy();
    assert.equal(await run.status(), 2);
    await run.allGone();
  });
});
