//! Toy graphs through a simulated driver.
