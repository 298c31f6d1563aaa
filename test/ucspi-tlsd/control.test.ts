/** The control socket: commands from the program, answers to it, and the time before the first command. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { type CertificateMaker, makeCertificates } from '../support/certificate.ts';
import { runTlsd, type TlsdSetup } from '../support/controlled-program.ts';
import { isNonBlocking, targetOf, until } from '../support/processes.ts';
import { collect, startTls } from '../support/tls-client.ts';

describe('the control socket of ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  let certificates: CertificateMaker;
  let run: TlsdSetup;
  before(() => {
    certificates = makeCertificates();
    const { certFile, keyFile } = certificates.selfSigned('mail.example.org');
    run = { environment: { CERTFILE: certFile, KEYFILE: keyFile } };
  });
  after(() => certificates.remove());

  it('starts TLS on y, and only closes the socket', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'y');
    const tls = await startTls(client);
    assert.equal((await program.readAll('control')).toString(), '');
    await program.write('write', 'hello, client');
    assert.equal(await collect(tls).octets(13), 'hello, client');
    tls.write('hello, program');
    assert.equal((await program.read('read')).toString(), 'hello, program');
  });

  it('describes TLS on Y, in strings terminated by NUL, with the name alone for an unknown value', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    const tls = await startTls(client);
    assert.equal(
      (await program.readAll('control')).toString('latin1'),
      'SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=TLS_AES_256_GCM_SHA384\0SSL_TLS_SNI_SERVERNAME\0' +
        'SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0',
    );
    await program.write('write', 'hello');
    assert.equal(await collect(tls).octets(5), 'hello');
  });

  it('names the negotiated protocol, cipher and server name', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    const ciphers = 'ECDHE-ECDSA-CHACHA20-POLY1305';
    await startTls(client, { maxVersion: 'TLSv1.2', ciphers, servername: 'Mail.Example.net' });
    assert.equal(
      (await program.readAll('control')).toString('latin1'),
      'SSL_PROTOCOL=TLSv1.2\0SSL_CIPHER=ECDHE-ECDSA-CHACHA20-POLY1305\0' +
        'SSL_TLS_SNI_SERVERNAME=Mail.Example.net\0SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0',
    );
  });

  it('ignores the bytes after the command', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'yY and more');
    await startTls(client);
    assert.equal((await program.readAll('control')).toString(), '');
  });

  it('carries the answer when the handshake is done, not before', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    let isAnswered = false;
    const answer = program.readAll('control').finally(() => {
      isAnswered = true;
    });
    await until('ucspi-tlsd opens the connection', () => isNonBlocking(program.parent, 0));
    assert.equal(isAnswered, false);
    await startTls(client);
    assert.match((await answer).toString('latin1'), /^SSL_PROTOCOL=/);
  });

  it('is closed without an answer when the handshake fails', async (t) => {
    const { client, tlsd, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    client.end('EHLO not.tls.example\r\n');
    assert.equal((await program.readAll('control')).length, 0);
    assert.equal((await program.readAll('read')).length, 0);
    await tlsd.logs(/^ucspi-tlsd: warning: unable to start TLS with 127\.0\.0\.1: ERR_SSL_\w+\n$/);
  });

  for (const command of ['Y', 'y']) {
    it(`serves a program that half-closes the control socket after ${command}`, async (t) => {
      const { client, tlsd, program } = await runTlsd(t, run);
      await program.write('control', command);
      await program.halfClose('control');
      const tls = await startTls(client);
      const answer = (await program.readAll('control')).toString('latin1');
      assert.match(answer, command === 'Y' ? /^SSL_PROTOCOL=TLSv1\.3\0.*\0\0$/s : /^$/);
      await program.write('write', 'hello, client');
      assert.equal(await collect(tls).octets(13), 'hello, client');
      tls.write('hello, program');
      assert.equal((await program.read('read')).toString(), 'hello, program');
      program.exit(0);
      assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      assert.equal(tlsd.stderr(), '');
    });
  }

  it('takes a half-close before a command as "no TLS"', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.halfClose('control');
    assert.equal((await program.readAll('control')).length, 0);
    await program.write('stdout', 'hello');
    assert.equal(await collect(client).octets(5), 'hello');
  });

  it('is closed after the answer, even if the program keeps its end open', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    await startTls(client);
    await program.readAll('control');
    let failure = '';
    await until('ucspi-tlsd closes it', () => {
      void program.write('control', 'more').catch((error: Error) => {
        failure = error.message;
      });
      return failure !== '';
    });
    assert.match(failure, /EPIPE/);
  });

  it('is one of three distinct descriptors above the standard ones', async (t) => {
    const { program } = await runTlsd(t, run);
    const { SSLCTLFD, SSLREADFD, SSLWRITEFD } = program.environment;
    const numbers = [SSLCTLFD, SSLREADFD, SSLWRITEFD].map(Number);
    assert.equal(new Set(numbers).size, 3);
    for (const number of numbers) assert.match(targetOf(program.pid, number), /^socket:/);
    assert.ok(Math.min(...numbers) > 2);
  });

  it('does not read the connection or change its mode before a command', async (t) => {
    const { client, tlsd, program } = await runTlsd(t, run);
    client.write('EHLO client.example\r\n');
    assert.equal((await program.read('stdin')).toString(), 'EHLO client.example\r\n');
    assert.deepEqual(
      [program.parent, program.pid].flatMap((pid) => [isNonBlocking(pid, 0), isNonBlocking(pid, 1)]),
      [false, false, false, false],
    );
    const received = collect(client);
    await program.write('stdout', '250 mail.example.org\r\n');
    assert.equal(await received.octets(22), '250 mail.example.org\r\n');
    assert.equal(tlsd.stderr(), '');
  });

  it('starts TLS on a connection that has carried cleartext in both directions', async (t) => {
    const { client, program } = await runTlsd(t, run);
    await program.write('stdout', '220 ready\r\n');
    await new Promise((resolve) => client.once('data', resolve));
    client.write('STARTTLS\r\n');
    assert.equal((await program.read('stdin')).toString(), 'STARTTLS\r\n');
    await program.write('control', 'y');
    const tls = await startTls(client);
    tls.write('EHLO');
    assert.equal((await program.read('read')).toString(), 'EHLO');
  });

  it('rejects cleartext after STARTTLS as an invalid handshake, and passes none of it to the program', async (t) => {
    const { client, program } = await runTlsd(t, run);
    client.write('RSET\r\nMAIL FROM:<eve@example.org>\r\n');
    const refused = assert.rejects(startTls(client));
    await program.write('control', 'y');
    assert.equal((await program.readAll('read')).length, 0);
    program.exit(0);
    await refused;
  });

  it('keeps no descriptor of the connection once the program has closed it: the client sees the end', async (t) => {
    const { client, tlsd, program } = await runTlsd(t, run);
    const connection = targetOf(program.pid, 0);
    assert.equal(targetOf(program.parent, 0), connection);
    await program.close('control');
    const received = collect(client);
    client.write('MAIL');
    assert.equal((await program.read('stdin')).toString(), 'MAIL');
    await program.write('stdout', '250 ok');
    await program.close('stdin');
    await program.close('stdout');
    assert.equal(await received.all, '250 ok');
    // The client sees the end when the last descriptor is closed, before /dev/null takes its place.
    for (const fd of [0, 1]) {
      await until('ucspi-tlsd opens /dev/null', () => existsSync(`/proc/${program.parent}/fd/${fd}`));
      assert.equal(targetOf(program.parent, fd), '/dev/null');
    }
    assert.equal((await program.readAll('read')).length, 0);
    program.exit(5);
    assert.deepEqual(await tlsd.ended, { code: 5, signal: null });
    assert.equal(tlsd.stderr(), '');
  });

  it('warns of an invalid command, and the program continues in cleartext', async (t) => {
    const { client, tlsd, program } = await runTlsd(t, run);
    await program.write('control', 'x');
    await tlsd.logs(/^ucspi-tlsd: warning: invalid command from the program: x\n$/);
    assert.equal((await program.readAll('control')).length, 0);
    const received = collect(client);
    await program.write('stdout', 'hello');
    assert.equal(await received.octets(5), 'hello');
    program.exit(0);
    assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
    assert.equal(await received.all, 'hello');
  });

  it('escapes an unprintable command in the warning', async (t) => {
    const { tlsd, program } = await runTlsd(t, run);
    await program.write('control', '\x1b');
    await tlsd.logs(/^ucspi-tlsd: warning: invalid command from the program: \\x1b\n$/);
  });
});
