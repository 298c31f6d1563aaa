/** A session in TLS, under each UCSPI-TLS server. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { descriptorsOf, targetOf } from '../support/processes.ts';
import { runShim, SERVER_NAMES } from '../support/shim.ts';

/** A shell as smtpd: it opens no descriptors of its own. */
const PLAIN_SMTPD = ['sh', '-c', 'printf "220 sh\\r\\n"; while read line; do printf "250 ok\\r\\n"; done'];

for (const server of SERVER_NAMES) {
  describe(`under ${server}`, { concurrency: 4 }, () => {
    it('mail is received in TLS by the same smtpd', async (t) => {
      const { client, ...run } = await runShim(t, { server });
      assert.equal(await client.reply(), '220 smtpd-script ready');
      const smtpd = await run.smtpd();
      assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 STARTTLS');
      await client.startTls();
      assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
      client.sendLines('MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA');
      for (const code of ['250', '250', '354']) assert.ok((await client.reply()).startsWith(code));
      assert.equal(await client.ask('Subject: x\r\n\r\nhello\r\n.'), '250 2.0.0 Queued 21');
      assert.equal(await run.smtpd(), smtpd);
      assert.equal(await client.ask('QUIT'), '221 2.0.0 Bye');
      assert.equal(await client.rest(), '');
      client.end();
      assert.equal(await run.status(), 0);
      await run.allGone();
      assert.equal(run.served.stderr(), '');
    });

    it('the shim releases the connection when the handshake is done', async (t) => {
      const { client, ...run } = await runShim(t, { server });
      await client.reply();
      const shim = await run.shim();
      const connection = targetOf(shim, 0);
      assert.match(connection, /^socket:/);
      assert.equal(targetOf(shim, 1), connection);
      await client.startTls();
      await client.ask('NOOP');
      assert.deepEqual([targetOf(shim, 0), targetOf(shim, 1)], ['/dev/null', '/dev/null']);
      assert.ok(!Object.values(targets(shim)).includes(connection));
    });

    it('smtpd has its three standard descriptors and never any other', async (t) => {
      const { client, ...run } = await runShim(t, { server, command: PLAIN_SMTPD });
      await client.reply();
      const smtpd = await run.smtpd();
      const before = targets(smtpd);
      assert.deepEqual(Object.keys(before), ['0', '1', '2']);
      assert.ok(!Object.values(before).includes(targetOf(await run.shim(), 0)));
      await client.startTls();
      await client.ask('NOOP');
      assert.deepEqual(targets(smtpd), before);
    });

    it('smtpd does not get the descriptor variables of UCSPI-TLS', async (t) => {
      const { client } = await runShim(t, { server });
      await client.reply();
      const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
      const names = Object.keys(environment).filter((name) => /^SSL.*FD$/.test(name));
      assert.deepEqual(names, []);
      assert.equal(environment.PROTO, 'TCP');
    });

    it('a client that half-closes in TLS after DATA gets its replies', async (t) => {
      const { client, ...run } = await runShim(t, {
        server,
        smtpd: ['--on=DATA:line 354 Go ahead; await-signal; data'],
      });
      await client.reply();
      await client.startTls();
      client.sendLines('MAIL FROM:<a@b>', 'DATA', 'hello', '.', 'QUIT');
      client.end();
      await run.hasRead('DATA');
      await run.release();
      assert.match(await client.rest(), /^250 [^\n]*\n354 [^\n]*\n250 2\.0\.0 Queued 7\r\n221 [^\n]*\n$/);
      assert.ok([0, 143].includes(await run.status()));
      await run.allGone();
    });
  });
}

describe('the control socket, once there is TLS', { concurrency: 4 }, () => {
  for (const [server, what, closed] of [
    ['s6-ucspitlsd', 'is closed', 1],
    ['sslserver', 'stays open, because closing it would end the session', 0],
  ] as const) {
    it(`${what}, under ${server}`, async (t) => {
      const { client, ...run } = await runShim(t, { server });
      await client.reply();
      const shim = await run.shim();
      const before = openSockets(shim);
      await client.startTls();
      await client.ask('NOOP');
      assert.equal(before - openSockets(shim), closed);
    });
  }
});

/** The number of sockets of a process, except for its standard descriptors. */
function openSockets(pid: number): number {
  return [...descriptorsOf(pid)].filter(([fd, target]) => fd > 2 && target.startsWith('socket:')).length;
}

/** The targets of a process's descriptors, except for those inherited from the runner of this test. */
function targets(pid: number): Record<string, string> {
  const inherited = descriptorsOf(process.pid);
  const all = [...descriptorsOf(pid)];
  return Object.fromEntries(all.filter(([fd, target]) => fd <= 2 || target !== inherited.get(fd)));
}
