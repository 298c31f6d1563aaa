/**
 * The least that STARTTLS in front of an smtpd can be in Node: a floor for the bench. Nobody should use it.
 * It has no bounds and no checks: it takes each chunk for one whole command or reply, does not refuse what an
 * attacker has put behind STARTTLS (CVE-2011-0411), and waits for as long as either side likes.
 *
 * Run as `node least.mjs SMTPD [ARGUMENT...]`, with CERTFILE and KEYFILE set; it prints its port.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createSecureContext, TLSSocket } from 'node:tls';

const [program, ...words] = process.argv.slice(2);
const [cert, key] = ['CERTFILE', 'KEYFILE'].map((name) => readFileSync(process.env[name]));
// With no list of authorities: none is asked for a certificate, and to read Node's own takes time and memory.
const secureContext = createSecureContext({ cert, key, ca: [] });

const server = createServer({ noDelay: true, allowHalfOpen: true }, serve);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

function serve(socket) {
  const { stdin, stdout } = spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'] });
  let greeted = false;
  const hangUp = () => socket.end();
  stdout.on('data', onReply).on('end', hangUp);
  socket.on('data', onCommand).on('end', () => stdin.end());
  // An end of either side, however rough, is the end of both.
  stdin.on('error', () => {});
  watch(socket);

  function onReply(reply) {
    socket.write(greeted ? reply.toString('latin1').replace(/^250 /m, '250-STARTTLS\r\n250 ') : reply);
    greeted = false;
  }
  function onCommand(command) {
    const name = command.toString('latin1', 0, 8).toUpperCase();
    if (name === 'STARTTLS') return goSecure();
    greeted = name.startsWith('EHLO');
    stdin.write(command);
  }
  function goSecure() {
    socket.off('data', onCommand).pause();
    stdout.off('data', onReply).off('end', hangUp);
    socket.write('220 go on\r\n');
    const secure = new TLSSocket(socket, { isServer: true, secureContext });
    watch(secure);
    secure.pipe(stdin);
    stdout.pipe(secure);
  }
  function watch(stream) {
    stream.on('error', () => {}).on('close', () => stdin.destroy());
  }
}
