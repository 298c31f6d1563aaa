/**
 * The least that a server can be in Node that starts no smtpd until a message comes: a floor for the bench. It answers
 * from memory, does STARTTLS and starts nothing, so it takes no message. Nobody should use it: like least.mjs it has
 * no bounds and no checks, and takes each chunk for one whole command.
 *
 * Run as `node least-on-demand.mjs [ARGUMENT...]`, with CERTFILE and KEYFILE set; it prints its port.
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createSecureContext, TLSSocket } from 'node:tls';

const [cert, key] = ['CERTFILE', 'KEYFILE'].map((name) => readFileSync(process.env[name]));
// With no list of authorities: none is asked for a certificate, and to read Node's own takes time and memory.
const secureContext = createSecureContext({ cert, key, ca: [] });

const server = createServer({ noDelay: true }, serve);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

function serve(socket) {
  watch(socket);
  socket.write('220 least.example ESMTP\r\n');
  socket.on('data', function onCommand(command) {
    if (!isStarttls(command)) return answer(socket, command, '250-least.example\r\n250 STARTTLS\r\n');
    socket.off('data', onCommand).pause();
    socket.write('220 go on\r\n');
    const secure = new TLSSocket(socket, { isServer: true, secureContext });
    watch(secure);
    secure.on('data', (next) => answer(secure, next, '250-least.example\r\n250 8BITMIME\r\n'));
  });
}

function isStarttls(command) {
  return command.toString('latin1', 0, 8).toUpperCase() === 'STARTTLS';
}

function answer(stream, command, reply) {
  if (command.toString('latin1', 0, 4).toUpperCase() === 'QUIT') stream.end('221 bye\r\n');
  else stream.write(reply);
}

/** An end, however rough, is no error of the server. */
function watch(stream) {
  stream.on('error', () => {});
}
