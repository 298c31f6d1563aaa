// The least of listeners: one process a connection, with the connection on its descriptors 0 and 1 and the
// UCSPI variables of tcpserver. For trying things; use tcpserver, s6-tcpserver or inetd for mail.
//
// Usage: node listen.mjs host port prog...
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';

const [host, port, file, ...args] = process.argv.slice(2);

// Paused, so that not one byte is read here.
const server = createServer({ pauseOnConnect: true }, (socket) => {
  const env = {
    ...process.env,
    PROTO: 'TCP',
    TCPLOCALIP: socket.localAddress,
    TCPLOCALPORT: String(socket.localPort),
    TCPREMOTEIP: socket.remoteAddress,
    TCPREMOTEPORT: String(socket.remotePort),
  };
  const child = spawn(file, args, { env, stdio: [socket, socket, 'inherit'] });
  child.on('error', (error) => console.error(`listen: fatal: unable to run ${file}: ${error.message}`));
  socket.on('error', () => {});
  // The child has descriptors of its own.
  socket.destroy();
});
server.on('error', (error) => {
  console.error(`listen: fatal: unable to listen on ${host} port ${port}: ${error.message}`);
  process.exit(111);
});
server.listen({ host, port: Number(port) }, () => {
  console.log(`listening on ${host} port ${server.address().port}`);
});
