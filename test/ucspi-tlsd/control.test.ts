/** The control socket: what the program may say there, what it hears, and what happens before it speaks. */

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type CertificateMaker, makeCertificates } from '../support/certificate.ts';
import { isNonBlocking, targetOf, until } from '../support/processes.ts';
import { openScene, type SceneOptions } from '../support/puppet.ts';
import { hear, startTls } from '../support/tls-client.ts';

describe('the control socket of ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  let certificates: CertificateMaker;
  let scene: SceneOptions;
  before(() => {
    certificates = makeCertificates();
    const { certFile, keyFile } = certificates.selfSigned('mail.example.org');
    scene = { environment: { CERTFILE: certFile, KEYFILE: keyFile } };
  });
  after(() => certificates.remove());

  it('starts TLS at y, and says nothing but the end', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('control', 'y');
    const tls = await startTls(client);
    assert.equal((await puppet.readAll('control')).toString(), '');
    await puppet.write('write', 'hello, client');
    assert.equal(await hear(tls).octets(13), 'hello, client');
    tls.write('hello, program');
    assert.equal((await puppet.read('read')).toString(), 'hello, program');
  });

  it('describes TLS at Y, in strings that NUL ends, with the names alone of what is not known', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('control', 'Y');
    const tls = await startTls(client);
    assert.equal(
      (await puppet.readAll('control')).toString('latin1'),
      'SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=TLS_AES_256_GCM_SHA384\0SSL_TLS_SNI_SERVERNAME\0' +
        'SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0',
    );
    await puppet.write('write', 'hello');
    assert.equal(await hear(tls).octets(5), 'hello');
  });

  it('names the protocol, the cipher and the server name that were really agreed on', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('control', 'Y');
    const ciphers = 'ECDHE-ECDSA-CHACHA20-POLY1305';
    await startTls(client, { maxVersion: 'TLSv1.2', ciphers, servername: 'Mail.Example.net' });
    assert.equal(
      (await puppet.readAll('control')).toString('latin1'),
      'SSL_PROTOCOL=TLSv1.2\0SSL_CIPHER=ECDHE-ECDSA-CHACHA20-POLY1305\0' +
        'SSL_TLS_SNI_SERVERNAME=Mail.Example.net\0SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0',
    );
  });

  it('takes what stands behind the command for nothing', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('control', 'yY and more');
    await startTls(client);
    assert.equal((await puppet.readAll('control')).toString(), '');
  });

  it('gives the answer when the handshake is done, and not before', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('control', 'Y');
    let isAnswered = false;
    const answer = puppet.readAll('control').finally(() => {
      isAnswered = true;
    });
    await until('ucspi-tlsd opens the connection', () => isNonBlocking(puppet.parent, 0));
    assert.equal(isAnswered, false);
    await startTls(client);
    assert.match((await answer).toString('latin1'), /^SSL_PROTOCOL=/);
  });

  it('ends without an answer when the handshake fails', async (t) => {
    const { client, tlsd, puppet } = await openScene(t, scene);
    await puppet.write('control', 'Y');
    client.end('EHLO not.tls.example\r\n');
    assert.equal((await puppet.readAll('control')).length, 0);
    assert.equal((await puppet.readAll('read')).length, 0);
    await tlsd.says(/^ucspi-tlsd: warning: unable to start TLS with 127\.0\.0\.1: ERR_SSL_\w+\n$/);
  });

  for (const command of ['Y', 'y']) {
    it(`answers a program that half-closes the control socket behind ${command}`, async (t) => {
      const { client, tlsd, puppet } = await openScene(t, scene);
      await puppet.write('control', command);
      await puppet.halfClose('control');
      const tls = await startTls(client);
      const answer = (await puppet.readAll('control')).toString('latin1');
      assert.match(answer, command === 'Y' ? /^SSL_PROTOCOL=TLSv1\.3\0.*\0\0$/s : /^$/);
      await puppet.write('write', 'hello, client');
      assert.equal(await hear(tls).octets(13), 'hello, client');
      tls.write('hello, program');
      assert.equal((await puppet.read('read')).toString(), 'hello, program');
      puppet.exit(0);
      assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
      assert.equal(tlsd.stderr(), '');
    });
  }

  it('takes a half-close before a command as "no TLS"', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.halfClose('control');
    assert.equal((await puppet.readAll('control')).length, 0);
    await puppet.write('stdout', 'hello');
    assert.equal(await hear(client).octets(5), 'hello');
  });

  it('closes the control socket behind the answer, whatever the program does with its end', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('control', 'Y');
    await startTls(client);
    await puppet.readAll('control');
    let failure = '';
    await until('ucspi-tlsd closes it', () => {
      void puppet.write('control', 'more').catch((error: Error) => {
        failure = error.message;
      });
      return failure !== '';
    });
    assert.match(failure, /EPIPE/);
  });

  it('names three descriptors that are neither the standard ones nor each other', async (t) => {
    const { puppet } = await openScene(t, scene);
    const { SSLCTLFD, SSLREADFD, SSLWRITEFD } = puppet.environment;
    const numbers = [SSLCTLFD, SSLREADFD, SSLWRITEFD].map(Number);
    assert.equal(new Set(numbers).size, 3);
    for (const number of numbers) assert.match(targetOf(puppet.pid, number), /^socket:/);
    assert.ok(Math.min(...numbers) > 2);
  });

  it('leaves the network alone until it hears a command', async (t) => {
    const { client, tlsd, puppet } = await openScene(t, scene);
    client.write('EHLO client.example\r\n');
    assert.equal((await puppet.read('stdin')).toString(), 'EHLO client.example\r\n');
    assert.deepEqual(
      [puppet.parent, puppet.pid].flatMap((pid) => [isNonBlocking(pid, 0), isNonBlocking(pid, 1)]),
      [false, false, false, false],
    );
    const heard = hear(client);
    await puppet.write('stdout', '250 mail.example.org\r\n');
    assert.equal(await heard.octets(22), '250 mail.example.org\r\n');
    assert.equal(tlsd.stderr(), '');
  });

  it('hands over a connection on which cleartext has been spoken, both ways', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    await puppet.write('stdout', '220 ready\r\n');
    await new Promise((resolve) => client.once('data', resolve));
    client.write('STARTTLS\r\n');
    assert.equal((await puppet.read('stdin')).toString(), 'STARTTLS\r\n');
    await puppet.write('control', 'y');
    const tls = await startTls(client);
    tls.write('EHLO');
    assert.equal((await puppet.read('read')).toString(), 'EHLO');
  });

  it('takes what was said in cleartext behind STARTTLS for no TLS, and gives none of it to the program', async (t) => {
    const { client, puppet } = await openScene(t, scene);
    client.write('RSET\r\nMAIL FROM:<eve@example.org>\r\n');
    const refused = assert.rejects(startTls(client));
    await puppet.write('control', 'y');
    assert.equal((await puppet.readAll('read')).length, 0);
    puppet.exit(0);
    await refused;
  });

  it('holds nothing of the connection once the program has closed it: the client sees the end', async (t) => {
    const { client, tlsd, puppet } = await openScene(t, scene);
    const connection = targetOf(puppet.pid, 0);
    assert.equal(targetOf(puppet.parent, 0), connection);
    await puppet.close('control');
    const heard = hear(client);
    client.write('MAIL');
    assert.equal((await puppet.read('stdin')).toString(), 'MAIL');
    await puppet.write('stdout', '250 ok');
    await puppet.close('stdin');
    await puppet.close('stdout');
    assert.equal(await heard.all, '250 ok');
    for (const fd of [0, 1]) assert.notEqual(targetOf(puppet.parent, fd), connection);
    assert.equal((await puppet.readAll('read')).length, 0);
    puppet.exit(5);
    assert.deepEqual(await tlsd.ended, { code: 5, signal: null });
    assert.equal(tlsd.stderr(), '');
  });

  it('warns of what is no command, and the program goes on in cleartext', async (t) => {
    const { client, tlsd, puppet } = await openScene(t, scene);
    await puppet.write('control', 'x');
    await tlsd.says(/^ucspi-tlsd: warning: the program said x, which is no command\n$/);
    assert.equal((await puppet.readAll('control')).length, 0);
    const heard = hear(client);
    await puppet.write('stdout', 'hello');
    assert.equal(await heard.octets(5), 'hello');
    puppet.exit(0);
    assert.deepEqual(await tlsd.ended, { code: 0, signal: null });
    assert.equal(await heard.all, 'hello');
  });

  it('says a command that is no printable character by its number', async (t) => {
    const { tlsd, puppet } = await openScene(t, scene);
    await puppet.write('control', '\x1b');
    await tlsd.says(/^ucspi-tlsd: warning: the program said \\x1b, which is no command\n$/);
  });
});
