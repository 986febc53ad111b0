export { CarError, CarProcessError, RunnerError } from './errors.cjs';
