/** How a TLS session ends, from either side: close_notify, half-close, and the lack of them. */

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type CertificateMaker, makeCertificates } from '../support/certificate.ts';
import { serve } from '../support/chain.ts';
import { runTlsd, type TlsdSetup } from '../support/controlled-program.ts';
import { targetOf, until } from '../support/processes.ts';
import { ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { collect, RECORD, startTls, tap } from '../support/tls-client.ts';

describe('the end of a TLS session under ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  let certificates: CertificateMaker;
  let environment: NodeJS.ProcessEnv;
  before(() => {
    certificates = makeCertificates();
    const { certFile, keyFile } = certificates.selfSigned('mail.example.org');
    environment = { CERTFILE: certFile, KEYFILE: keyFile };
  });
  after(() => certificates.remove());

  const setup = (...options: string[]): TlsdSetup => ({ options, environment });

  describe('that the program ends', { concurrency: 4 }, () => {
    for (const options of [[], ['-S']]) {
      it(`is sent to the client as close_notify, with ${options[0] ?? 'no option'}`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup(...options));
        await program.write('control', 'y');
        const { wire, records, ended } = tap(client);
        const received = collect(await startTls(wire, { maxVersion: 'TLSv1.2' }));
        await program.write('write', 'bye');
        await program.close('write');
        await ended;
        assert.equal(await received.all, 'bye');
        assert.deepEqual(records().slice(-2), [RECORD.applicationData, RECORD.alert]);
        program.exit(0);
        client.end();
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      });
    }

    it('is sent to the client as a half-close without close_notify, with -s', async (t) => {
      const { client, tlsd, program } = await runTlsd(t, setup('-s'));
      await program.write('control', 'y');
      const { wire, records, ended } = tap(client);
      const received = collect(await startTls(wire, { maxVersion: 'TLSv1.2' }));
      await program.write('write', 'bye');
      await program.close('write');
      await ended;
      assert.equal(await received.all, 'bye');
      assert.equal(records().at(-1), RECORD.applicationData);
      assert.ok(!records().includes(RECORD.alert));
      program.exit(0);
      client.end();
      assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
    });

    for (const option of ['-S', '-s']) {
      it(`leaves the other direction open, with ${option}: the program still receives data`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup(option));
        await program.write('control', 'y');
        const { wire, ended } = tap(client);
        const tls = await startTls(wire, { maxVersion: 'TLSv1.2' });
        tls.resume();
        await program.close('write');
        await ended;
        tls.write('one more thing');
        assert.equal((await program.read('read')).toString(), 'one more thing');
        tls.end();
        assert.equal((await program.readAll('read')).length, 0);
        program.exit(0);
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      });
    }

    for (const how of ['before the handshake', 'after it'] as const) {
      it(`does not stop data from the client when the program half-closes its read socket, ${how}`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup());
        if (how === 'before the handshake') await program.halfClose('read');
        await program.write('control', 'y');
        const tls = await startTls(client);
        if (how === 'after it') await program.halfClose('read');
        for (const text of ['NOOP', 'QUIT']) {
          tls.write(text);
          assert.equal((await program.read('read')).toString(), text);
        }
        const received = collect(tls);
        await program.write('write', '221 bye');
        await program.halfClose('write');
        assert.equal(await received.all, '221 bye');
        tls.end('and more');
        assert.equal((await program.readAll('read')).toString(), 'and more');
        program.exit(0);
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      });
    }

    it('follows the last data of a program that exits, as close_notify', async (t) => {
      const { client, tlsd, program } = await runTlsd(t, setup());
      await program.write('control', 'y');
      const { wire, records, ended } = tap(client);
      const received = collect(await startTls(wire, { maxVersion: 'TLSv1.2' }));
      await program.write('write', '221 bye\r\n');
      program.exit(3);
      await ended;
      assert.equal(await received.all, '221 bye\r\n');
      assert.equal(records().at(-1), RECORD.alert);
      client.end();
      assert.deepEqual(await tlsd.ended, { code: 3, signal: null });
    });

    // A client without Node, which fails at an end without close_notify.
    for (const [option, status] of [
      ['-S', 0],
      ['-s', 1],
    ] as const) {
      it(`makes openssl exit with status ${status} in TLS 1.3, with ${option}`, async (t) => {
        const program = 'printf y >&3; cat <&3; echo hello >&5';
        const chain = await serve([ours('ucspi-tlsd'), option, 'sh', '-c', program], environment);
        t.after(chain.close);
        const address = `127.0.0.1:${chain.port}`;
        const client = await run(['openssl', 's_client', '-connect', address, '-quiet', '-tls1_3']);
        assert.equal(client.stdout, 'hello\n');
        assert.equal(client.status, status, client.stderr);
      });
    }
  });

  describe('that the client ends', { concurrency: 4 }, () => {
    for (const option of ['-j', '-J']) {
      it(`by close_notify ends the input of the program, which may still respond, with ${option}`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup(option));
        await program.write('control', 'y');
        const tls = await startTls(client);
        const received = collect(tls);
        tls.end('QUIT');
        assert.equal((await program.readAll('read')).toString(), 'QUIT');
        await program.write('write', '221 bye');
        program.exit(0);
        assert.equal(await received.all, '221 bye');
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
        assert.equal(tlsd.stderr(), '');
      });

      it(`by close_notify is a regular end even if the program reads late, with ${option}`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup(option));
        await program.write('control', 'y');
        const tls = await startTls(client);
        const received = collect(tls);
        // More than the buffers to the program hold, so that the end arrives before all is read.
        const message = 'x'.repeat(600_000);
        await new Promise<void>((resolve) => tls.end(message, resolve));
        await program.write('write', 'I have not read a word');
        assert.equal(await received.octets(22), 'I have not read a word');
        assert.equal((await program.hash('read')).size, message.length);
        await program.write('write', '!');
        program.exit(0);
        assert.equal(await received.all, 'I have not read a word!');
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
        assert.equal(tlsd.stderr(), '');
      });
    }

    // Full records, and one that is not full. The kernel determines how many fit in the buffers to the program: in
    // one of these cases all but the last.
    for (let records = 8; records <= 24; records++) {
      const size = records * 16384 + 9000;
      it(`comes after ${size} octets when both sides have ended and the program has yet to read, with -J`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup('-J'));
        await program.write('control', 'y');
        const tls = await startTls(client);
        const received = collect(tls);
        await program.close('write');
        assert.equal(await received.all, '');
        await new Promise<void>((resolve) => tls.end('x'.repeat(size), resolve));
        // When it has reached the end, ucspi-tlsd closes the connection. It need not.
        await until('', () => targetOf(tlsd.pid, 0) === '/dev/null', 500).catch(() => {});
        assert.equal((await program.hash('read')).size, size);
        program.exit(0);
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
        assert.equal(tlsd.stderr(), '');
      });
    }

    it('without close_notify ends only the input of the program, with -j', async (t) => {
      const { client, tlsd, program } = await runTlsd(t, setup('-j'));
      await program.write('control', 'y');
      const { wire } = tap(client);
      const tls = await startTls(wire);
      const received = collect(tls);
      await new Promise((resolve) => tls.write('cut', resolve));
      client.end();
      assert.equal((await program.readAll('read')).toString(), 'cut');
      await program.write('write', 'bye');
      program.exit(0);
      assert.equal(await received.all, 'bye');
      assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      assert.equal(tlsd.stderr(), '');
    });

    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      it(`without close_notify is an error with -J in ${maxVersion}: the program is cut off, both ways`, async (t) => {
        const { client, tlsd, program } = await runTlsd(t, setup('-J'));
        await program.write('control', 'y');
        const { wire } = tap(client);
        const tls = await startTls(wire, { maxVersion });
        const received = collect(tls);
        await new Promise((resolve) => tls.write('cut', resolve));
        assert.equal((await program.read('read')).toString(), 'cut');
        client.end();
        assert.equal((await program.readAll('read')).length, 0);
        await tlsd.logs(/^ucspi-tlsd: warning: 127\.0\.0\.1 ended the connection without close_notify\n$/);
        // The two descriptors are not closed at the same moment.
        await assert.rejects(async () => {
          for (;;) await program.write('write', 'is anybody there?');
        }, /EPIPE/);
        program.exit(0);
        assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
        await received.all.catch(() => {});
      });
    }

    it('during the handshake is reported in one line, with -J too, and the program continues', async (t) => {
      const { client, tlsd, program } = await runTlsd(t, setup('-J'));
      await program.write('control', 'Y');
      client.end(Buffer.from([22, 3, 1, 2, 0, 1]));
      assert.equal((await program.readAll('control')).length, 0);
      assert.equal((await program.readAll('read')).length, 0);
      await tlsd.logs(
        /^ucspi-tlsd: warning: unable to start TLS with 127\.0\.0\.1: the connection ended before the ClientHello\n$/,
      );
      program.exit(9);
      assert.deepEqual(await tlsd.ended, { code: 9, signal: null });
    });

    it('by a reset ends the input of the program, with -J too', async (t) => {
      const { client, tlsd, program } = await runTlsd(t, setup('-J'));
      await program.write('control', 'y');
      await startTls(client);
      client.resetAndDestroy();
      assert.equal((await program.readAll('read')).length, 0);
      program.exit(6);
      assert.deepEqual(await tlsd.ended, { code: 6, signal: null });
    });
  });

  it('is the same with -J and a certificate by name, for which the ClientHello was read first', async (t) => {
    const { CERTFILE, KEYFILE } = environment;
    const names = { 'CERTFILE:a.example': CERTFILE, 'KEYFILE:a.example': KEYFILE };
    const { client, tlsd, program } = await runTlsd(t, { options: ['-J', '-k2'], environment: names });
    await program.write('control', 'y');
    const tls = await startTls(client, { servername: 'a.example' });
    const received = collect(tls);
    tls.end('QUIT');
    assert.equal((await program.readAll('read')).toString(), 'QUIT');
    await program.write('write', '221 bye');
    program.exit(0);
    assert.equal(await received.all, '221 bye');
    assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
    assert.equal(tlsd.stderr(), '');
  });
});
